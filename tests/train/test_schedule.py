"""Schedules against the golden, table against jit, durations with units."""

import json
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

from sigma_jax.runtime.durations import read_duration
from sigma_jax.train.schedule import cosine_with_warmup, scaled_lr

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "schedule.npz")
CASES = sorted({key.split(":")[0] for key in GOLDEN})


def _arguments(case: str) -> dict:
    given = json.loads(str(GOLDEN[f"{case}:args_json"]))
    per_epoch = given["niter_per_ep"]
    warmup = given.get("warmup_steps", given.get("warmup_epochs", 0) * per_epoch)
    return {
        "base_value": given["base_value"],
        "final_value": given["final_value"],
        "total_steps": given["epochs"] * per_epoch,
        "warmup_steps": warmup,
        "start_warmup_value": given.get("start_warmup_value", 0.0),
    }


def _table(**arguments) -> np.ndarray:
    return cosine_with_warmup(**arguments)(np.arange(arguments["total_steps"]))


@pytest.mark.parametrize("case", CASES)
def test_table_equals_golden(case):
    values = _table(**_arguments(case))
    expected = GOLDEN[f"{case}:values"]
    assert values.dtype == np.float64 and values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_jitted_schedule_equals_table(case):
    arguments = _arguments(case)
    table = _table(**arguments)
    jitted = jax.jit(cosine_with_warmup(**arguments))
    steps = np.arange(arguments["total_steps"])
    np.testing.assert_allclose(jitted(steps), table, rtol=2e-6, atol=1e-12)
    assert float(jitted(7)) == pytest.approx(table[7], rel=2e-6)


def test_peak_twice_and_end_not_reached():
    values = _table(base_value=1.0, final_value=0.1, total_steps=31, warmup_steps=7)
    assert values[0] == 0 and values[6] == values[7] == values.max() == 1.0
    assert values[-1] > 0.1
    assert float(cosine_with_warmup(1.0, 0.1, 31, 7)(1000)) == pytest.approx(values[-1])


@pytest.mark.parametrize(("total", "warmup"), [(0, 0), (11, 11), (11, 13), (11, -1)])
def test_impossible_lengths(total, warmup):
    with pytest.raises(ValueError, match=r"total_steps|warmup_steps"):
        cosine_with_warmup(1.0, 0.0, total, warmup)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"warmup_steps": 13}, 13),
        ({"warmup_epochs": 3}, 51),
        ({"warmup_epochs": 0.5}, 8),
        ({"warmup_epochs": 0.001}, 1),
        ({"warmup_percent": 10}, 34),
        ({"warmup_percent": 0}, 0),
        ({"warmup_epochs": 2, "warmup_steps": None}, 34),
    ],
)
def test_durations(fields, expected):
    config = ml_collections.ConfigDict(fields)
    assert read_duration(config, "warmup").in_steps(17, 340) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"total_steps": 5, "total_epochs": 2}, "total_steps=5 and total_epochs=2"),
        ({}, "total_steps, total_epochs, total_percent; none"),
        ({"total_steps": None}, "none of them"),
        ({"total_percent": 10}, "needs its length"),
        ({"total_epochs": -1}, "number >= 0"),
        ({"total_epochs": True}, "number >= 0"),
        ({"total_steps": 2.5}, "whole number"),
    ],
)
def test_wrong_durations(fields, message):
    with pytest.raises(ValueError, match=message):
        read_duration(fields, "total").in_steps(17)


def test_percent_above_hundred():
    with pytest.raises(ValueError, match="0 to 100"):
        read_duration({"warmup_percent": 101}, "warmup")


def test_learning_rate_scales_with_global_batch():
    assert scaled_lr(1.5e-4, 1024) == pytest.approx(6e-4)
    assert scaled_lr(1.5e-4, 37) == pytest.approx(1.5e-4 * 37 / 256)
