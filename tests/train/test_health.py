"""Warnings come when they should, once, and not on a healthy run."""

import json
import re

import pytest

from sigma_jax.train.health import HealthMonitor, Limits, should_stop, write_dump

HEALTHY = {
    "loss": 9.1, "loss_over_lnk": 0.71, "prototypes_used_pred": 0.6, "prototypes_used_proj": 0.7,
    "assignment_entropy_pred": 0.9, "assignment_entropy_proj": 0.95, "marginal_error_pred": 0.01,
    "marginal_error_proj": 0.02, "grad_norm": 1.3, "lr": 1e-4, "nonfinite_steps": 0, "nonfinite_run": 0,
    "clips_per_s": 300.0, "data_wait_ms": 3.0, "step_ms": 100.0, "bad_videos": 0,
}  # fmt: skip


def test_healthy_run_is_silent():
    monitor = HealthMonitor(3000)
    assert [monitor.check(step, HEALTHY) for step in range(0, 3000, 97)] == [[]] * 31
    assert monitor.check(3001, {"loss": 0.1}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prototypes_used_pred": 0.01}, r"only 1.0% of the prototypes \(30 of 3000\).*pred side"),
        ({"prototypes_used_proj": 0.01}, "proj side"),
        ({"assignment_entropy_pred": 0.1}, "assignment entropy of the pred side is 0.10"),
        ({"assignment_entropy_proj": 0.1}, "assignment entropy of the proj"),
        ({"marginal_error_pred": 0.5}, "marginal error of the pred side is 0.5"),
        ({"marginal_error_proj": 0.5}, "marginal error of the proj"),
        ({"nonfinite_steps": 3, "nonfinite_run": 2}, r"3 steps skipped.*2 in a row"),
        ({"data_wait_ms": 41.0}, "waits 41%"),
        ({"lr": 0.0}, "learning rate is zero"),
        ({"bad_videos": 5}, "5 videos"),
    ],
)
def test_each_warning_alone_and_once(change, words):
    monitor = HealthMonitor(3000, Limits(repeat_steps=100))
    metrics = {**HEALTHY, **change}
    (text,) = monitor.check(101, metrics)
    assert re.search(words, text), text
    assert monitor.check(200, metrics) == []
    counted = any(name in change for name in ("nonfinite_steps", "bad_videos"))
    assert len(monitor.check(201, metrics)) == (0 if counted else 1), "counts repeat only when they grow"


def test_a_count_that_grew_unsaid_is_said_later():
    monitor = HealthMonitor(3000, Limits(repeat_steps=100))
    assert len(monitor.check(101, {"bad_videos": 1})) == 1
    assert monitor.check(150, {"bad_videos": 2}) == []
    assert monitor.check(250, {"bad_videos": 2})[0].startswith("2 videos")


def test_stuck_at_ln_k_needs_an_unbroken_run():
    stuck = {**HEALTHY, "loss_over_lnk": 1.003}
    monitor = HealthMonitor(3000, Limits(stuck_steps=50))
    assert not any(monitor.check(step, stuck) for step in range(10, 60, 7))
    (text,) = monitor.check(61, stuck)
    assert "loss at ln K for 51 steps" in text
    monitor = HealthMonitor(3000, Limits(stuck_steps=50))
    for step in range(0, 200, 10):
        assert monitor.check(step, stuck if step % 50 else HEALTHY) == []


def test_start_of_a_run_is_not_blamed():
    start = {**HEALTHY, "prototypes_used_pred": 0.01, "lr": 0.0, "assignment_entropy_proj": 0.1}
    assert HealthMonitor(3000).check(1, start) == []
    assert len(HealthMonitor(3000).check(51, start)) == 3


def test_non_finite_limit():
    assert [should_stop(n, 3) for n in range(5)] == [False, False, False, True, True]
    assert not should_stop(1000, 0)


def test_dump_names_the_first_bad_module(tmp_path):
    norms = {"encoder/block_0": 1.0, "encoder/block_1": float("nan"), "decoder": float("inf")}
    path, text = write_dump(tmp_path, 17, ["a.mp4", "b.mp4"], norms)
    dump = json.loads(path.read_text())
    assert dump["first_nonfinite_module"] == "encoder/block_1" and "first in encoder/block_1" in text
    assert dump["step"] == 17 and dump["record_keys"] == ["a.mp4", "b.mp4"]
    assert dump["module_norms"] == {"encoder/block_0": 1.0, "encoder/block_1": "nan", "decoder": "inf"}
    assert "every module norm is finite" in write_dump(tmp_path, 18, [], {"decoder": 1.0})[1]
