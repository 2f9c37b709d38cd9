"""Linear probe: what a linear classifier can and cannot separate, the optimum it must reach, determinism."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.evals import linear
from sigma_jax.evals.attentive import AttentiveClassifier
from sigma_jax.evals.linear import linear_probe
from sigma_jax.models.attentive_classifier import AttentiveClassifier as GridClassifier


def _blobs(num=300, width=6, num_classes=3, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    centres = np.random.default_rng(99).normal(size=(num_classes, width))
    return (centres[labels] + spread * rng.normal(size=(num, width))).astype(np.float32), labels


@pytest.mark.parametrize("probe", ["linear", "attentive", "grid"])
def test_scores_are_products_in_fp32_on_every_platform(probe):
    """In the program lowered for TPUs, whose default would multiply fp32 numbers as bfloat16: 13 is the classes."""
    tokens, labels = jax.ShapeDtypeStruct((5, 7, 16), jnp.float32), jax.ShapeDtypeStruct((5,), jnp.int32)
    if probe == "linear":
        function, arguments = partial(linear._minimize, max_iterations=3), (tokens.update(shape=(5, 16)), labels)
        arguments += (1e-3, jax.ShapeDtypeStruct((13,), jnp.bool_))
    else:
        module = AttentiveClassifier(13, 2) if probe == "attentive" else GridClassifier(13, 2, depth=1)
        params = jax.eval_shape(module.init, jax.random.key(0), tokens)
        function, arguments = jax.grad(lambda p, x: module.apply(p, x).sum()), (params, tokens)
    with jax.default_matmul_precision("default"):
        text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line and re.search(r"[<x]13x", line)]
    assert len(products) >= 2 and all("precision = [HIGHEST, HIGHEST]" in line for line in products), products


def test_separable_classes_are_separated():
    result = linear_probe(_blobs(), _blobs(seed=1), num_classes=3)
    assert result["top1"] == 100 and result["train_top1"] == 100
    assert "top5" not in result


def test_no_relation_is_chance():
    (x, _), (x_test, _) = _blobs(num=2000), _blobs(num=2000, seed=1)
    y, y_test = np.random.default_rng(5).integers(0, 8, (2, 2000))
    result = linear_probe((x, y), (x_test, y_test), num_classes=8)
    assert abs(result["top1"] - 12.5) < 4 and abs(result["top5"] - 62.5) < 6


def test_exclusive_or_needs_more_than_a_line():
    x = np.random.default_rng(0).choice([-1.0, 1.0], (800, 2)) + 0.1 * np.random.default_rng(1).normal(size=(800, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    assert linear_probe((x[:400], y[:400]), (x[400:], y[400:]), num_classes=2)["top1"] < 75
    product = np.concatenate([x, x[:, :1] * x[:, 1:]], axis=1)
    assert linear_probe((product[:400], y[:400]), (product[400:], y[400:]), num_classes=2)["top1"] == 100


def test_reaches_the_optimum_and_repeats():
    train, test = _blobs(spread=1.0), _blobs(spread=1.0, seed=1)
    result = linear_probe(train, test, num_classes=3)
    assert result["gradient_norm"] <= 1e-4 and result["iterations"] < 200
    assert result == linear_probe(train, test, num_classes=3)
    stopped = linear_probe(train, test, num_classes=3, max_iterations=2)
    assert stopped["iterations"] == 2 and stopped["gradient_norm"] > 1e-4


def test_scale_shift_and_constant_columns_do_not_matter():
    (x, y), (x_test, y_test) = _blobs(spread=1.0), _blobs(spread=1.0, seed=1)
    expected = linear_probe((x, y), (x_test, y_test), num_classes=3)["top1"]

    def changed(features):
        constant = np.full((len(features), 1), 0.1, np.float32)
        return np.concatenate([features * np.geomspace(1e-3, 1e3, 6, dtype=np.float32) + 5, constant], axis=1)

    result = linear_probe((changed(x), y), (changed(x_test), y_test), num_classes=3)
    assert result["top1"] == pytest.approx(expected, abs=1)


def test_penalty_holds_the_fit_back():
    train, test = _blobs(num=30, width=40, spread=2.0), _blobs(width=40, spread=2.0, seed=1)
    assert linear_probe(train, test, num_classes=3, l2=1e-4)["train_top1"] == 100
    assert linear_probe(train, test, num_classes=3, l2=1e3)["gradient_norm"] <= 1e-4
    assert linear_probe(train, test, num_classes=3, l2=1e3)["train_top1"] < 100


def test_labellings_that_are_filled_up_alike_share_a_program():
    three, five = (_blobs(spread=1.0, num_classes=n) for n in (3, 5))
    linear._minimize.clear_cache()
    alone = [linear_probe(x, x, num_classes=n) for n, x in ((3, three), (5, five))]
    assert linear._minimize._cache_size() == 2
    linear._minimize.clear_cache()
    filled = [linear_probe(x, x, num_classes=n, padded_classes=9) for n, x in ((3, three), (5, five))]
    assert linear._minimize._cache_size() == 1
    for one, other in zip(alone, filled, strict=True):
        assert one["top1"] == pytest.approx(other["top1"], abs=1) and other["gradient_norm"] <= 1e-4


def test_more_columns_than_clips():
    train, test = _blobs(num=50, width=500), _blobs(num=50, width=500, seed=1)
    assert linear_probe(train, test, num_classes=3)["top1"] == 100


def test_more_columns_than_clips_are_fitted_in_as_many_as_clips(monkeypatch):
    (train, labels), (test, test_labels) = _blobs(50, 500, spread=8.0), _blobs(200, 500, spread=8.0, seed=1)
    train[7] = train[8]  # a space of fewer dimensions than clips
    columns, fit = [], linear._minimize
    monkeypatch.setattr(linear, "_minimize", lambda x, *rest: columns.append(x.shape[1]) or fit(x, *rest))
    found = linear_probe((train, labels), (test, test_labels), num_classes=3)
    monkeypatch.setattr(linear, "_in_row_space", lambda *sets: [x.astype(np.float32) for x in sets])
    whole = linear_probe((train, labels), (test, test_labels), num_classes=3)
    assert columns == [50, 500] and found["iterations"] == whole["iterations"]
    assert found["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-2)
    assert found["top1"] == whole["top1"] and 50 < found["top1"] < 100


@pytest.mark.parametrize(
    "train, message",
    [
        ((np.ones((5, 4)), np.zeros(5, int)), "4 wide, test features 6"),
        ((np.ones(5), np.zeros(5, int)), r"train features have shape \(5,\)"),
        ((np.ones((5, 6)), np.full(5, 3)), "train labels spans 3..3; expected 0..2"),
        ((np.full((5, 6), np.inf), np.zeros(5, int)), "5 of 5 rows of train features"),
        ((np.ones((0, 6)), np.zeros(0, int)), "train labels is empty"),
    ],
)
def test_bad_input_is_named(train, message):
    with pytest.raises(ValueError, match=message):
        linear_probe(train, _blobs(), num_classes=3)
