"""Sinkhorn: the published loop, invariants, stability, any number of devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sigma_jax.ops.sinkhorn import hard_assignments, joint_prototype_scalings, prototype_scalings, soft_assignments
from sigma_jax.runtime.sharding import make_mesh


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def clustered_scores(seed, num_tokens, num_prototypes, dim=8):
    """Cosine scores of tokens around a few directions, so that balancing matters."""
    rng = np.random.default_rng(seed)
    centres = unit(rng, 4, dim)
    tokens = unit(rng, num_tokens, dim) * 0.6 + centres[rng.integers(4, size=num_tokens)]
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    return (tokens @ unit(rng, num_prototypes, dim).T).astype(np.float32)


def published_loop(scores, epsilon, num_iters):
    """Rows (prototypes) to 1/K, columns (tokens) to 1/N, in float64, on the whole matrix Q."""
    q = np.exp(scores.astype(np.float64) / epsilon).T
    q /= q.sum()
    k, n = q.shape
    for _ in range(num_iters):
        q /= q.sum(axis=1, keepdims=True) * k
        q /= q.sum(axis=0, keepdims=True) * n
    return (q / q.sum(axis=0, keepdims=True)).T


@pytest.mark.parametrize("epsilon", [0.02, 0.03, 0.05, 0.3])  # 0.02 runs in the log domain
@pytest.mark.parametrize("num_iters", [1, 3, 10])
def test_equals_the_published_loop_in_float64(epsilon, num_iters):
    scores = clustered_scores(0, 331, 37)

    @jax.jit
    def assigned(scores):
        scalings, _ = prototype_scalings(scores, epsilon=epsilon, num_iters=num_iters)
        return soft_assignments(scores, scalings, epsilon), hard_assignments(scores, scalings, epsilon)

    soft, hard = assigned(scores)
    expected = published_loop(scores, epsilon, num_iters)
    np.testing.assert_allclose(soft, expected, atol=5e-5)
    np.testing.assert_array_equal(hard, expected.argmax(axis=1))


def test_balances_prototypes_where_the_plain_softmax_does_not():
    scores = jnp.asarray(clustered_scores(1, 503, 29))
    scalings, error = prototype_scalings(scores, epsilon=0.05, num_iters=50)
    balanced = np.asarray(soft_assignments(scores, scalings, 0.05)).mean(axis=0) * 29
    plain = np.asarray(jax.nn.softmax(scores / 0.05)).mean(axis=0) * 29
    assert np.abs(balanced - 1).max() < 0.05 < np.abs(plain - 1).max()
    assert error < 0.05


def test_marginal_error_falls_with_iterations():
    error = jax.jit(lambda scores, n: prototype_scalings(scores, epsilon=0.05, num_iters=n)[1], static_argnums=1)
    errors = [float(error(clustered_scores(2, 211, 31), n)) for n in (2, 5, 20)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("epsilon", [0.005, 0.01, 0.03])
def test_is_finite_at_the_extremes(epsilon):
    """2 clips of 1408 tokens, 3000 prototypes, scores of +-1, fp32."""
    rng = np.random.default_rng(0)
    scores = rng.choice(np.float32([-1.0, 1.0]), size=(2816, 3000))
    scalings, error = jax.jit(partial(prototype_scalings, epsilon=epsilon, num_iters=10))(scores)
    soft = np.asarray(jax.jit(partial(soft_assignments, epsilon=epsilon))(scores, scalings))
    assert np.isfinite(scalings).all() and np.isfinite(error)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 0.05])
def test_eight_devices_equal_one(devices, epsilon):
    scores = clustered_scores(3, 8 * 43, 37)
    alone, _ = jax.jit(partial(prototype_scalings, epsilon=epsilon, num_iters=10))(scores)
    mesh = make_mesh(data=4, fsdp=2)
    axes = ("data", "fsdp")
    local = partial(prototype_scalings, epsilon=epsilon, num_iters=10, axis_names=axes)
    together, _ = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P(axes), out_specs=P()))(scores)
    np.testing.assert_allclose(together, alone, atol=2e-5)
    assigned = jax.jit(partial(hard_assignments, scores, epsilon=epsilon))
    np.testing.assert_array_equal(assigned(np.asarray(together)), assigned(np.asarray(alone)))


def test_impossible_settings_are_errors():
    for settings in ({"epsilon": 0.0, "num_iters": 10}, {"epsilon": 0.05, "num_iters": 0}):
        with pytest.raises(ValueError, match="num_iters"):
            prototype_scalings(jnp.zeros((3, 2)), **settings)


@pytest.mark.parametrize("num_tokens", [64, 70, 300])
def test_blocks_find_the_same_prototypes(num_tokens):
    """Also where the compiler rounds S + epsilon log a differently in the two passes, and in a row of NaN."""
    keys = jax.random.split(jax.random.key(num_tokens), 2)
    scores = jax.random.uniform(keys[0], (num_tokens, 33), minval=-1.0).at[1].set(jnp.nan)
    log_scalings = jax.random.normal(keys[1], (33,))
    find = jax.jit(partial(hard_assignments, epsilon=0.05), static_argnames="block_rows")
    blocks = find(scores, log_scalings, block_rows=64)
    np.testing.assert_array_equal(blocks, find(scores, log_scalings, block_rows=0))


def test_matrices_are_balanced_side_by_side_as_alone():
    keys = jax.random.split(jax.random.key(8), 2)
    sides = tuple(jax.random.normal(k, (n, 12)) / 4 for k, n in zip(keys, (40, 56), strict=True))
    settings = {"epsilon": 0.05, "num_iters": 4}
    together = jax.jit(partial(joint_prototype_scalings, **settings))(sides)
    alone = jax.jit(partial(prototype_scalings, **settings))
    for found, scores in zip(together, sides, strict=True):
        for a, b in zip(found, alone(scores), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
