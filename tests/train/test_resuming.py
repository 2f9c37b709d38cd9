"""A run goes on with the same config and the same data only, or says what changes."""

import logging
from types import SimpleNamespace

import pytest

from sigma_jax.train.resuming import NOTHING, Allowed, ChangedConfig, ChangedData, Facts, NoStepsLeft, check_same_run

DATA = {"split": "train", "records": 18, "shards": 2, "bytes": 900, "layout": "ab", "content": "cd"}
DATA |= {"num_classes": 2, "label_map": "ef", "classes": ["jump", "run"]}
PLAN = {"num_records": 18, "batch_size": 4, "accumulation": 1, "num_devices": 1, "num_prototypes": 4}
PLAN |= {"steps_per_epoch": 4, "total_steps": 16, "warmup_steps": 1, "save_every_steps": 3, "keep_every_steps": 0}
CONFIG = {"batch_size": 4, "data": {"num_workers": 2, "label_hash": "x"}}
META = {"config": CONFIG, "plan": PLAN, "data": DATA}
SHORTER = PLAN | {"num_records": 14, "steps_per_epoch": 3, "total_steps": 12}
FEWER = DATA | {"records": 14, "bytes": 700}


def check(plan=PLAN, data=DATA, config=CONFIG, meta=META, step=9, allowed=NOTHING):
    check_same_run(Facts(config, SimpleNamespace(**plan), data), step, meta, "runs/x/checkpoints", allowed)


def test_the_same_goes_on_without_a_word(caplog):
    check(config=CONFIG | {"data": {"num_workers": 0, "label_hash": "x"}})
    assert not caplog.records


def test_other_data_are_refused_with_what_would_follow(caplog):
    with pytest.raises(ChangedData) as refusal:
        check(SHORTER, FEWER)
    for text in ("records: 18 -> 14", "total_steps: 16 -> 12", "steps_per_epoch: 4 -> 3", "--allow_data_change"):
        assert text in str(refusal.value)
    with caplog.at_level(logging.WARNING):
        check(SHORTER, FEWER, allowed=Allowed(data=True))
    assert "the data change from step 9 on: records: 18 -> 14" in caplog.text
    assert "the plan changes from step 9 on: steps_per_epoch: 4 -> 3; total_steps: 16 -> 12" in caplog.text


def test_another_label_map_is_a_change_of_the_data():
    renamed = DATA | {"label_map": "yy", "classes": ["jump", "walk"]}
    config = CONFIG | {"data": {"num_workers": 2, "label_hash": "y"}}
    with pytest.raises(ChangedData, match="label map: .*without 'run'; new 'walk'"):
        check(data=renamed, config=config)
    check(data=renamed, config=config, allowed=Allowed(data=True))


def test_a_changed_config_is_refused():
    with pytest.raises(ChangedConfig, match="batch_size: 8 -> 4"):
        check(meta=META | {"config": CONFIG | {"batch_size": 8}}, allowed=Allowed(data=True))


def test_a_checkpoint_of_an_earlier_version_knows_its_plan_only(caplog):
    meta = {"config": CONFIG, "plan": META["plan"]}
    with caplog.at_level(logging.INFO):
        check(meta=meta)
    assert "does not say which data" in caplog.text
    with pytest.raises(ChangedData, match="records: 18 -> 14"):
        check(SHORTER, FEWER, meta=meta)
    with pytest.raises(ChangedData, match="label_hash: 'x' -> 'z'"):
        check(config={"batch_size": 4, "data": {"num_workers": 2, "label_hash": "z"}}, meta=meta)


def test_a_plan_that_ends_before_the_checkpoint():
    with pytest.raises(NoStepsLeft, match="step 13, the plan now ends at step 12"):
        check(SHORTER, FEWER, step=13, allowed=Allowed(data=True))


def test_other_devices_are_said_aloud(caplog):
    check(PLAN | {"accumulation": 2})
    assert "balances 2 clips at a time instead of 4" in caplog.text
