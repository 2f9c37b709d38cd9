"""The fused cross-entropy and Sinkhorn's forms against the plain ones: values, gradients, assignments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.objective.cross_entropy import hard_cross_entropy, soft_cross_entropy
from sigma_jax.objective.sigma import sharded_symmetric_loss, symmetric_loss
from sigma_jax.ops.sinkhorn import Sweeps, hard_assignments, platform_sweeps, prototype_scalings
from sigma_jax.runtime.sharding import BATCH_AXES, make_mesh
from sigma_jax.tools.benchmarks.objective import sample_scores

TOKENS, PROTOTYPES = 1531, 200  # a prime: blocks of 64 rows leave a rest


@pytest.fixture(scope="module")
def scores():
    return sample_scores(jax.random.key(0), TOKENS, PROTOTYPES, 64)


@pytest.fixture(scope="module")
def labels():
    return jax.random.randint(jax.random.key(1), (TOKENS,), 0, PROTOTYPES)


def plain_cross_entropy(scores, labels, temperature):
    rows = jax.nn.log_softmax(scores.astype(jnp.float32) / temperature)
    return -jnp.mean(jnp.take_along_axis(rows, labels[:, None], axis=1))


@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("block_rows", [0, 64])
def test_value_and_gradient_in_fp32(scores, labels, temperature, block_rows):
    ours = jax.value_and_grad(hard_cross_entropy)(scores, labels, temperature, block_rows)
    plain = jax.value_and_grad(plain_cross_entropy)(scores, labels, temperature)
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-6)
    assert relative_error(ours[1], plain[1]) < 1e-6


def test_gradient_in_bf16(scores, labels):
    rounded = scores.astype(jnp.bfloat16)
    ours = jax.grad(hard_cross_entropy)(rounded, labels, 0.1)
    assert ours.dtype == jnp.bfloat16
    plain = jax.grad(plain_cross_entropy)(rounded.astype(jnp.float32), labels, 0.1)
    cosines = jnp.vdot(ours.astype(jnp.float32), plain) / jnp.linalg.norm(plain) ** 2
    assert abs(float(cosines) - 1) < 1e-3 and relative_error(ours, plain) < 2.0**-8  # bf16 keeps eight bits


def relative_error(ours, plain) -> float:
    return float(jnp.linalg.norm(ours.astype(jnp.float32) - plain) / jnp.linalg.norm(plain))


def test_soft_and_hard_agree_on_one_hot(scores, labels):
    soft = soft_cross_entropy(scores, jax.nn.one_hot(labels, PROTOTYPES), 0.1)
    np.testing.assert_allclose(soft, hard_cross_entropy(scores, labels, 0.1), rtol=1e-6)


def test_backward_stores_no_second_matrix(scores, labels):
    """Between forward and backward only the scores and vectors are kept."""
    _, backward = jax.vjp(lambda s: hard_cross_entropy(s, labels, 0.1), scores)
    kept = [leaf for leaf in jax.tree.leaves(backward) if np.size(leaf) >= scores.size]
    assert len(kept) == 1
    _, backward = jax.vjp(lambda s: plain_cross_entropy(s, labels, 0.1), scores)
    assert len([leaf for leaf in jax.tree.leaves(backward) if np.size(leaf) >= scores.size and leaf is not scores])


@pytest.mark.parametrize("temperature", [0.1, 0.025, 0.001])
def test_extreme_scores(temperature):
    extremes = jnp.asarray([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    labels = jnp.asarray([0, 1, 0])
    ours = hard_cross_entropy(extremes, labels, temperature)
    np.testing.assert_allclose(ours, plain_cross_entropy(extremes, labels, temperature), rtol=2e-6)


@pytest.mark.parametrize("epsilon", [0.05, 0.03])
@pytest.mark.parametrize(
    "sweeps,agreement", [(Sweeps(block_rows=64), 0.9999), (Sweeps("float16"), 0.999), (Sweeps("bfloat16"), 0.999)]
)
def test_assignments_agree_with_the_plain_form(scores, epsilon, sweeps, agreement):
    run = partial(prototype_scalings, epsilon=epsilon, num_iters=10)
    plain, plain_error = run(scores)
    ours, error = run(scores, sweeps=sweeps)
    expected = hard_assignments(scores, plain, epsilon)
    found = hard_assignments(scores, ours, epsilon, sweeps.block_rows)
    assert found.dtype == jnp.int32
    assert float(jnp.mean(expected == found)) >= agreement
    if sweeps.dtype == "float32":
        np.testing.assert_allclose(ours, plain, atol=1e-5)
        np.testing.assert_allclose(error, plain_error, atol=1e-5)
    else:  # the option does something
        assert float(jnp.max(jnp.abs(ours - plain))) > 0


def test_rows_of_nan_get_a_valid_prototype():
    found = hard_assignments(jnp.full((70, 5), jnp.nan), jnp.zeros(5), 0.05, block_rows=64)
    assert found.shape == (70,) and int(found.max()) < 5


def test_sweeps_are_resolved_per_platform():
    assert platform_sweeps("cpu") == Sweeps("float32", 64)
    assert platform_sweeps("gpu").dtype == "float16" and platform_sweeps("tpu").dtype == "bfloat16"
    assert platform_sweeps("gpu", "float32") == Sweeps("float32", 0)
    with pytest.raises(ValueError, match="float16"):
        platform_sweeps("gpu", "int8")


@pytest.mark.parametrize("sweeps", [Sweeps(block_rows=64), Sweeps("float16")], ids=lambda s: s.dtype)
def test_eight_devices_compute_the_same_loss_and_gradient(devices, sweeps):
    keys = jax.random.split(jax.random.key(3), 3)
    predictions, projections = (jax.random.normal(key, (8, 70, 16)) for key in keys[:2])
    prototypes = jax.random.normal(keys[2], (33, 16))
    prototypes = prototypes / jnp.linalg.norm(prototypes, axis=1, keepdims=True)
    settings = {"epsilon": 0.05, "sweeps": sweeps}
    over_mesh = sharded_symmetric_loss(make_mesh(), BATCH_AXES, **settings)

    def sharded(predictions, projections, prototypes):
        return over_mesh(predictions, projections, prototypes)[:2]  # no queue

    def single(predictions, projections, prototypes):
        flat = (x.reshape(-1, 16) for x in (predictions, projections))
        return symmetric_loss(*flat, prototypes, **settings)

    arguments = (predictions, projections, prototypes)
    ours, plain = (jax.jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))(*arguments) for f in (sharded, single))
    ((ours_loss, ours_metrics), ours_gradient), ((loss, metrics), gradient) = ours, plain
    np.testing.assert_allclose(ours_loss, loss, rtol=1e-6)
    for a, b in zip(ours_gradient, gradient, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for name, value in metrics.items():  # marginal errors are differences of nearly equal numbers
        np.testing.assert_allclose(ours_metrics[name], value, atol=1e-5 if "marginal" in name else 2e-6)
