"""Both toys of SEVERE from a checkpoint and from random weights: alike but for the weights, and nothing twice."""

import json

import pytest

from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tools import severe_toys


@pytest.fixture
def trained(monkeypatch):
    """Flags of every run that was started; nothing is trained, seed and start decide on the results."""
    runs = []

    def train_in(folder, flags):
        runs.append((folder.name, flags))
        (folder / "eval").mkdir(parents=True)
        seed, has_init = int(folder.name[-1]), any(flag.startswith("--init=") for flag in flags)
        result = {"relative_error": 0.5 - 0.2 * has_init, "oboa": 0.25, "map": 30.0 + seed}
        (folder / "eval/result.json").write_text(json.dumps(result))

    monkeypatch.setattr(severe_toys, "train_in", train_in)
    return runs


def _collect(folder, *starts):
    return severe_toys.collect(severe_toys.Experiment(folder, folder / "data", 5), starts)


def test_arms_differ_in_their_weights_only(trained, tmp_path):
    starts = [severe_toys.Start(f"/runs/{seed}", f"digest {seed}") for seed in range(2)]
    rows = _collect(tmp_path, *starts)
    assert rows[severe_toys.RANDOM] == {n: {"counting": 50, "OBOA": 25, "mAP": 30.0 + n} for n in range(2)}
    assert rows[severe_toys.TRAINED][1] == pytest.approx({"counting": 70, "OBOA": 25, "mAP": 31})
    flags = dict(trained)
    assert len(trained) == len(flags) == 8
    for score in ("ucf_rc", "charades"):
        for seed in range(2):
            random, ours = (set(flags[f"{score}-{arm}-seed{seed}"]) for arm in ("random", "checkpoint"))
            assert ours - random == {f"--init=/runs/{seed}"} and random < ours
            assert {f"--config.seed={seed}", "--config.total_steps=5"} < random
    assert _collect(tmp_path, *starts) == rows and len(trained) == 8  # all kept


def test_other_weights_under_the_same_path_are_another_experiment(trained, tmp_path):
    _collect(tmp_path, severe_toys.Start("/runs/0", "old"))
    with pytest.raises(InvalidValue, match="use another --workdir"):
        _collect(tmp_path, severe_toys.Start("/runs/0", "new"))


def test_the_command_writes_table_and_paired_differences(trained, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(severe_toys, "write_toys", lambda out, clips: made.append(out))
    digests = iter("ab")
    monkeypatch.setattr(severe_toys, "digest_of", lambda init: next(digests))
    assert severe_toys.main([f"--init={tmp_path}/x", f"--workdir={tmp_path}", "--seeds=2"]) == 0
    text = capsys.readouterr().out
    assert made == [tmp_path / "data"] and next(digests) == "b"  # one model for both seeds is read once
    assert "| from the checkpoint | 2 | 70.0 ± 0.0 | 25.0 ± 0.0 | 30.5 ± 0.7 |" in text
    assert "counting: ahead of random weights, higher in 2 of 2 seeds, +20.0 ± 0.0 points." in text
    assert (tmp_path / "severe_toys.md").read_text() in text
    assert json.loads((tmp_path / "severe_toys.json").read_text())["rows"][severe_toys.RANDOM]["1"]["mAP"] == 31.0


@pytest.mark.parametrize("flags", [["--seeds=0"], ["--seeds=3", "--init=a,b"], ["--steps=-1"]])
def test_wrong_numbers_are_usage_errors(flags, tmp_path):
    with pytest.raises(SystemExit) as ended:
        severe_toys.main(["--init=a", f"--workdir={tmp_path}", *flags])
    assert ended.value.code == 2
