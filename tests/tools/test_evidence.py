"""The evidence run: what is finished is not repeated, rates are chosen, and words say what the numbers say."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from sigma_jax.report import arms
from sigma_jax.runtime import signals
from sigma_jax.tools import evidence
from sigma_jax.train.experiments import cached, run_to_its_end

OURS = evidence.ARMS["sigma"].title


@pytest.fixture
def experiment(tmp_path):
    return evidence.Experiment(
        tmp_path,
        evidence.Questions(tmp_path, "data=shapes", "train", ("a",), None, True, {evidence.RAW_PIXELS: None}),
        9,
    )


@pytest.fixture
def measured(monkeypatch):
    """Names of what was measured, in order; nothing is trained."""
    done = []

    def numbers(experiment, name, seed, rate):
        done.append((name, seed, rate))
        part = {"knn/motion": 10.0 * seed + (name == "sigma")}
        return {"last": part, "chosen": part, "chosen_step": 9, "health": {}}

    def choice(experiment, name, rates):
        done.append((name, rates))
        return {"rate": max(rates) if name == "pixel" else min(rates), "scores": {}}

    monkeypatch.setattr(evidence, "arm_numbers", numbers)
    monkeypatch.setattr(evidence, "choose_rate", choice)
    monkeypatch.setattr(evidence, "reference_numbers", lambda *_: {"knn/motion": 1.0})
    monkeypatch.setattr(evidence, "untrained_numbers", lambda *_: {"knn/motion": 2.0})
    return done


def test_each_arm_and_seed_is_measured_once_at_its_own_rate(experiment, measured):
    first = evidence.collect(experiment, ["sigma", "pixel"], 2, [1.0, 3.0])
    assert measured[:2] == [("sigma", [4e-3, 1.2e-2]), ("pixel", [4e-3, 1.2e-2])]
    assert measured[2:] == [(n, s, 4e-3 if n == "sigma" else 1.2e-2) for s in (0, 1) for n in ("sigma", "pixel")]
    assert [row["knn/motion"] for row in first.last[OURS].values()] == [1.0, 11.0]
    assert len(first.last["random weights"]) == 2 and len(first.last["raw 8x8x8 pixels"]) == 1
    again = evidence.collect(experiment, ["sigma", "pixel"], 3, [1.0, 3.0])
    assert measured[6:] == [("sigma", 2, 4e-3), ("pixel", 2, 1.2e-2)]  # only the new seed
    assert {seed: again.last[OURS][seed] for seed in (0, 1)} == first.last[OURS]


def test_only_the_main_arms_get_all_seeds(experiment, measured):
    evidence.collect(experiment, ["sigma", "soft"], 5, [1.0])
    assert [seed for name, seed, _ in measured[2:] if name == "sigma"] == [0, 1, 2, 3, 4]
    assert [seed for name, seed, _ in measured[2:] if name == "soft"] == [0, 1, 2]


def test_a_rate_is_chosen_by_the_last_point_of_the_monitored_curve(experiment, monkeypatch, tmp_path):
    peaks = {1e-3: [50, 40], 3e-3: [30, 45], 9e-3: [10, 10]}

    def run(self, arm, seed, rate):
        folder = tmp_path / f"{rate}"
        folder.mkdir()
        rows = [{"step": step, "a": value} for step, value in zip((4, 9), peaks[rate], strict=True)]
        rows.append({"step": 5, "a": 99.0})  # no checkpoint of this step is kept
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert seed == evidence.CHOICE_SEED
        return evidence.FinishedRun(folder, 9, 4)

    monkeypatch.setattr(evidence.Experiment, "run", run)
    choice = evidence.choose_rate(experiment, "sigma", list(peaks))
    assert choice == {"rate": 3e-3, "scores": {"0.001": 40.0, "0.003": 45.0, "0.009": 10.0}}


def test_cached_belong_to_what_was_asked(tmp_path):
    path = tmp_path / "deep" / "evidence.json"
    cached(path, {"steps": 900}, lambda: {"a": 1.0})
    assert json.loads(path.read_text()) == {"asked": {"steps": 900}, "numbers": {"a": 1.0}}
    with pytest.raises(ValueError, match="'steps': 900.*'steps': 300.*another --workdir"):
        cached(path, {"steps": 300}, lambda: {"a": 2.0})
    path.write_text('{"asked": {"st')
    with pytest.raises(ValueError, match="delete it, and it is measured again"):
        cached(path, {"steps": 900}, lambda: {"a": 2.0})


@pytest.mark.parametrize(
    "flag", ["--arms=pixel", "--arms=sigma,nothing", "--arms=sigma,sigma", "--rates=0,1", "--rates=fast", "--seeds=0"]
)
def test_flags_that_cannot_be_are_refused(flag, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evidence.main([f"--workdir={tmp_path}", f"--data_dir={tmp_path}", flag])
    assert f"got {flag}" in capsys.readouterr().err


def test_a_set_without_the_test_split_is_refused(tmp_path, shapes_dir, capsys):
    assert evidence.main([f"--workdir={tmp_path}", f"--data_dir={shapes_dir}"]) == 1
    assert "test" in capsys.readouterr().err


def test_a_run_that_fails_names_its_log(experiment, tmp_path):
    with pytest.raises(RuntimeError, match=r"status \d.*log\.txt"):
        experiment.run(evidence.ARMS["sigma"], 0, 1e-3)
    (log,) = tmp_path.glob("*/log.txt")
    assert str(tmp_path) in log.read_text()


def seeds(*values):
    return {seed: {"knn/motion": value} for seed, value in enumerate(values)}


def test_a_claim_needs_an_interval_without_zero():
    ours = seeds(60.0, 80.0, 70.0, 75.0, 65.0)
    always = arms.paired(ours, seeds(50.0, 69.0, 61.0, 64.0, 56.0), "knn/motion")
    assert always.verdict == "ahead" and always.ahead == 5 and always.mean == pytest.approx(10.0)
    assert always.half_width == pytest.approx(2.776 * 1.0 / 5**0.5, rel=1e-3)  # Student's t, 4 degrees of freedom
    assert "ahead of pixels, higher in 5 of 5 seeds, +10.0 ± 1.2 points" in always.sentence("knn/motion", "pixels")
    mixed = arms.paired(ours, seeds(50.0, 90.0, 61.0, 90.0, 30.0), "knn/motion")
    assert mixed.verdict == "level" and "level with" in mixed.sentence("knn/motion", "pixels")
    behind = arms.paired(ours, seeds(71.0, 91.0, 81.0, 86.0, 76.5), "knn/motion")
    assert "BEHIND pixels, higher in 0 of 5" in behind.sentence("knn/motion", "pixels")
    single = arms.paired(seeds(60.0), seeds(50.0), "knn/motion")
    assert single.verdict == "level" and "one seed" in single.sentence("knn/motion", "pixels")
    assert arms.paired(seeds(60.0), {7: {"knn/motion": 1.0}}, "knn/motion") is None


def test_table_and_markdown_hold_mean_and_sample_deviation():
    shown = arms.table({OURS: seeds(60.0, 70.0), "pixels": seeds(90.0), "none": {0: {}}}, "arm")
    assert [row["knn/motion"] for row in shown] == ["65.0 ± 7.1", "90.0", "-"]
    lines = arms.markdown(shown).splitlines()
    assert lines[0] == "| arm | seeds | knn/motion |" and len({line.count("|") for line in lines}) == 1


RUN = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_run_of_an_evidence_that_is_stopped_saves(tmp_path):
    path = tmp_path / "log.txt"

    def stop_when_ready():
        while "ready" not in path.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    with path.open("a") as log, pytest.raises(signals.Stopped), signals.ending(print):
        threading.Thread(target=stop_when_ready).start()
        run_to_its_end([sys.executable, "-c", RUN], log)
    assert path.read_text().split() == ["ready", "saved"]
