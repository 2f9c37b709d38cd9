"""The symmetric loss: a loop in words, options that differ, devices that do not matter."""

from functools import partial

import jax
import numpy as np
import pytest

from sigma_jax.objective.sigma import prototype_usage, sharded_symmetric_loss, symmetric_loss
from sigma_jax.runtime.sharding import BATCH_AXES, make_mesh

SETTINGS = {"epsilon": 0.05, "num_iters": 10, "temperature": 0.1}


def features(batch=8, hidden=13, dim=11, prototypes=17):
    rng = np.random.default_rng(0)
    predictions, projections = rng.standard_normal((2, batch, hidden, dim), np.float32)
    return predictions, projections, unit(rng.standard_normal((prototypes, dim), np.float32))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def flat_loss(predictions, projections, prototypes, **settings):
    flat = (x.reshape(-1, x.shape[-1]) for x in (predictions, projections))
    return jax.jit(partial(symmetric_loss, **{**SETTINGS, **settings}))(*flat, prototypes)


def test_is_the_sum_in_the_docstring():
    predictions, projections, prototypes = features()

    def published(scores):
        q = np.exp(np.float64(scores) / 0.05).T
        for _ in range(10):
            q /= q.sum(axis=1, keepdims=True) * q.shape[0]
            q /= q.sum(axis=0, keepdims=True) * q.shape[1]
        return q.T.argmax(axis=1)

    sides = {}
    for name, x in (("pred", predictions), ("proj", projections)):
        sides[name] = unit(x.reshape(-1, x.shape[-1])) @ prototypes.T
    expected = 0.0
    for scored, other in (("proj", "pred"), ("pred", "proj")):
        logits, assigned = sides[scored] / 0.1, published(sides[other])
        log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected -= log_softmax[np.arange(len(assigned)), assigned].mean()
    loss, _ = flat_loss(predictions, projections, prototypes)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_prototypes_learn_from_the_projection_side_only():
    predictions, projections, prototypes = features()

    def gradient(name):
        return jax.jit(jax.grad(lambda p: flat_loss(predictions, projections, p)[1][name]))(prototypes)

    assert not np.any(gradient("loss_pred"))
    assert np.any(gradient("loss_proj"))


def test_each_side_learns_from_its_own_branch_only():
    predictions, projections, prototypes = features()
    grad = jax.grad(lambda x, y, name: flat_loss(x, y, prototypes)[1][name], argnums=(0, 1))
    grad = jax.jit(grad, static_argnums=2)
    by_pred, by_proj = grad(predictions, projections, "loss_pred"), grad(predictions, projections, "loss_proj")
    assert np.any(by_pred[0]) and not np.any(by_pred[1])
    assert np.any(by_proj[1]) and not np.any(by_proj[0])


@pytest.mark.parametrize("change", [{"assignments": "soft"}, {"epsilon": 0.2}, {"num_iters": 1}, {"temperature": 0.2}])
def test_every_setting_makes_a_difference(change):
    arrays = features()
    assert abs(float(flat_loss(*arrays)[0] - flat_loss(*arrays, **change)[0])) > 1e-4


def test_unknown_assignments_are_an_error():
    with pytest.raises(ValueError, match="hard"):
        flat_loss(*features(), assignments="firm")


@pytest.mark.parametrize("assignments", ["hard", "soft"])
@pytest.mark.parametrize("axes", [(8, 1), (2, 4)])
def test_eight_devices_equal_one(devices, assignments, axes):
    arrays = features()
    settings = {**SETTINGS, "assignments": assignments}

    def value(mesh):
        loss = sharded_symmetric_loss(mesh, BATCH_AXES, **settings)
        both = jax.value_and_grad(lambda *a: loss(*a)[0], argnums=(0, 1, 2))
        return jax.jit(both)(*arrays), jax.jit(loss)(*arrays)[1]

    (one, one_grads), one_metrics = value(make_mesh(devices=devices[:1]))
    (many, many_grads), many_metrics = value(make_mesh(*axes))
    np.testing.assert_allclose(many, one, rtol=1e-6)
    for a, b in zip(many_grads, one_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for name, number in one_metrics.items():
        np.testing.assert_allclose(many_metrics[name], number, rtol=1e-5, atol=1e-6, err_msg=name)


def test_usage_of_a_literal_histogram():
    usage = jax.jit(prototype_usage, static_argnums=1)
    np.testing.assert_allclose(usage(np.array([0, 0, 3, 3]), 4), [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(usage(np.array([2, 2, 2]), 4), [0.25, 0.0], atol=1e-6)
