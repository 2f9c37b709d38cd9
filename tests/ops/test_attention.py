"""Attention's forms agree, and keep what they promise; GELU's own backward pass is the derivative."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.ops.activations import gelu
from sigma_jax.ops.attention import LEAN_KEYS, attend, check_backend

KEYS = LEAN_KEYS + 9


@pytest.fixture(scope="module")
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((2, KEYS - 100, 2, 16), (2, KEYS, 2, 16), (2, KEYS, 2, 16))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


def output_and_gradient(qkv, backend):
    def loss(q, k, v):
        out = attend(q, k, v, backend)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*qkv)


def test_lean_equals_xla(qkv):
    lean, plain = output_and_gradient(qkv, "lean"), output_and_gradient(qkv, "xla")
    for a, b in zip(jax.tree.leaves(lean), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_lean_in_bf16(qkv):
    lean = output_and_gradient([x.astype(jnp.bfloat16) for x in qkv], "lean")
    plain = output_and_gradient(qkv, "xla")
    for a, b in zip(jax.tree.leaves(lean), jax.tree.leaves(plain), strict=True):
        assert a.dtype == jnp.bfloat16
        assert float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)) < 0.02


def test_lean_keeps_no_weights_for_the_backward_pass(qkv):
    def largest_kept(backend):
        backward = jax.eval_shape(lambda *qkv: jax.vjp(lambda q, k, v: attend(q, k, v, backend), *qkv)[1], *qkv)
        return max(leaf.size for leaf in jax.tree.leaves(backward))

    assert largest_kept("lean") <= qkv[1].size < largest_kept("xla")


def test_backends_are_resolved_per_platform():
    assert [check_backend("auto", platform) for platform in ("cpu", "gpu", "tpu")] == ["lean", "cudnn", "pallas"]
    with pytest.raises(ValueError, match="needs a GPU.*'xla'"):
        check_backend("cudnn", "tpu")
    with pytest.raises(ValueError, match="needs a TPU.*'lean'"):
        check_backend("pallas", "cpu")
    with pytest.raises(ValueError, match="unknown: choose one of"):
        check_backend("splash")
    with pytest.raises(ValueError, match="unknown: choose one of"):
        attend(*(jnp.zeros((1, 1, 1, 1)),) * 3, "splash")


def test_gelu_and_its_derivative():
    x = jnp.linspace(-6, 6, 997)
    both = [
        jax.jit(jax.vmap(jax.value_and_grad(function)))(x)
        for function in (gelu, lambda x: jax.nn.gelu(x, approximate=False))
    ]
    for ours, plain in zip(*both, strict=True):
        np.testing.assert_allclose(ours, plain, atol=5e-7)
    assert gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.bfloat16, 2.0**-8), (jnp.float32, 3e-6)])
def test_gelu_and_its_derivative_are_right_in_the_tails(dtype, limit):
    """Relative to float64: 1 + erf cancels for negative x, in 16 bits from about -2 on."""
    x = np.asarray(jnp.linspace(-8, 8, 1601).astype(dtype).astype(jnp.float32), np.float64)
    cdf = np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    slope = cdf + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    ours = jax.jit(gelu)(jnp.asarray(x, dtype))
    np.testing.assert_allclose(np.asarray(ours, np.float64), x * cdf, rtol=limit, atol=0)
    derivative = jax.jit(jax.vmap(jax.grad(gelu)))(jnp.asarray(x, dtype))
    scale = np.maximum(np.abs(slope), np.abs(x) * np.exp(-0.5 * x * x))  # near -0.75 the derivative is 0
    assert np.max(np.abs(np.asarray(derivative, np.float64) - slope) / scale) < limit
