"""Attentive probe: it finds what a mean over tokens hides, repeats itself, and names bad input."""

import numpy as np
import pytest

from sigma_jax.evals.attentive import attentive_probe
from sigma_jax.evals.linear import linear_probe


def _clips(num, seed):
    """Tokens [n 6 8]: one of them is marked and says the class; the others shout random classes."""
    rng = np.random.default_rng(seed)
    labels, rows = rng.integers(0, 3, num), np.arange(num)
    tokens = 0.1 * rng.normal(size=(num, 6, 8))
    tokens[rows[:, None], np.arange(6), rng.integers(0, 3, (num, 6))] += 1.0
    place = rng.integers(0, 6, num)
    tokens[rows, place] = 0.1 * rng.normal(size=(num, 8))
    tokens[rows, place, labels] += 1.0
    tokens[rows, place, 7] += 2.0
    return tokens.astype(np.float32), labels


def test_pooling_looks_where_the_class_is():
    train, test = _clips(1500, 0), _clips(300, 1)
    result = attentive_probe(train, test, num_classes=3, num_heads=2)
    mean = linear_probe((train[0].mean(1), train[1]), (test[0].mean(1), test[1]), num_classes=3)
    assert result["top1"] > 95 and mean["top1"] < 75


def test_it_repeats():
    arguments = {"num_classes": 3, "num_heads": 2, "epochs": 2}
    first, again = (attentive_probe(_clips(200, 0), _clips(100, 1), **arguments) for _ in range(2))
    assert first == again


def test_no_relation_is_chance():
    (x, _), (test_x, _) = _clips(600, 0), _clips(600, 1)
    y, test_y = np.random.default_rng(2).integers(0, 4, (2, 600))
    assert abs(attentive_probe((x, y), (test_x, test_y), num_classes=4, num_heads=2, epochs=3)["top1"] - 25) < 7


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train": (np.ones((5, 8)), np.zeros(5, int))}, r"train tokens have shape \(5, 8\); expected"),
        ({"train": (np.ones((5, 7, 8)), np.zeros(5, int))}, "expected the same network"),
        ({"train": (np.full((5, 6, 8), np.nan), np.zeros(5, int))}, "5 of 5 rows of train tokens"),
        ({"train": (np.ones((5, 6, 8)), np.full(5, 3))}, "spans 3..3; expected 0..2"),
        ({"num_heads": 3}, "num_heads=3 does not divide the width 8"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"train": _clips(5, 0), "test": _clips(5, 1), "num_heads": 2} | change
    with pytest.raises(ValueError, match=message):
        attentive_probe(arguments.pop("train"), arguments.pop("test"), num_classes=3, **arguments)
