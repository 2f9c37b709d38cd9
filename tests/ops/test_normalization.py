"""Layer normalisation: PyTorch's formula, its derivative, and what is kept for the backward pass."""

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.ops.normalization import layer_norm

EPSILON = 1e-6


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    x, scale, bias = (jax.random.normal(key, s) for key, s in zip(keys, ((2, 5, 24), (24,), (24,)), strict=True))
    return (3.0 * x + 1.0).astype(dtype), scale, bias


def plain(x, scale, bias):
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + EPSILON) * scale + bias


def ours(x, scale, bias):
    return layer_norm(x, scale, bias, EPSILON)


def test_value_and_derivative():
    def gradient(function):
        return jax.jit(jax.grad(lambda *args: jnp.sum(jnp.sin(function(*args))), (0, 1, 2)))(*inputs())

    np.testing.assert_allclose(jax.jit(ours)(*inputs()), jax.jit(plain)(*inputs()), atol=1e-6)
    for a, b in zip(gradient(ours), gradient(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_no_fp32_copy_of_bf16_input_is_kept():
    """Statistics stay fp32, so the result is as exact as fp32 arithmetic on the rounded input."""
    args = inputs(jnp.bfloat16)
    out, backward = jax.vjp(ours, *args)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, plain(*args), atol=1e-6)
    large = [leaf for leaf in jax.tree.leaves(backward) if np.size(leaf) >= args[0].size]
    assert [leaf.dtype for leaf in large] == [jnp.bfloat16]
    assert [g.dtype for g in backward(out)] == [jnp.bfloat16, jnp.float32, jnp.float32]
