"""The TPU kernels, run as plain JAX: equal to the two products and a softmax, whatever does not fit their blocks."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.ops import tpu_attention
from sigma_jax.ops.attention import attend
from sigma_jax.runtime.sharding import batch_sharding, make_mesh, traced_on
from sigma_jax.runtime.topologies import topology_devices


def make_qkv(shape, num_keys, dtype=jnp.float32):
    batch, _, heads, width = shape
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (shape, (batch, num_keys, heads, width), (batch, num_keys, heads, width))
    return tuple(jax.random.normal(key, s).astype(dtype) for key, s in zip(keys, shapes, strict=True))


def output_and_gradient(attention, qkv):
    def loss(q, k, v):
        out = attention(q, k, v)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*qkv)


def kernels(q, k, v):
    return tpu_attention.attend_on_tpu(q * q.shape[-1] ** -0.5, k, v, interpret=True)


def plain(q, k, v):
    return attend(q, k, v, "xla")


@pytest.mark.parametrize(
    "shape,num_keys",
    [
        ((2, 300, 4, 64), 523),  # two groups of heads, two blocks of rows, prime number of keys
        ((1, 197, 3, 64), 197),  # all three heads in one group (ViT-S decoder), a teacher's tokens
        ((1, 37, 4, 32), 160),  # four heads in a group
        ((1, 128, 1, 128), 256),  # nothing to pad or to mask
        ((1, 1, 2, 96), 7),  # one query (attentive pooling), heads that do not fill lanes
    ],
    ids=str,
)
def test_equals_plain_attention(shape, num_keys):
    qkv = make_qkv(shape, num_keys)
    for a, b in zip(*(jax.tree.leaves(output_and_gradient(f, qkv)) for f in (kernels, plain)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_in_bf16():
    exact = output_and_gradient(plain, make_qkv((1, 150, 2, 64), 161))
    found = output_and_gradient(kernels, make_qkv((1, 150, 2, 64), 161, jnp.bfloat16))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.bfloat16
        assert float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)) < 0.02


def test_every_device_works_on_its_own_clips(devices):
    mesh, qkv = make_mesh(-1, 2), make_qkv((8, 24, 2, 64), 40)
    alone = output_and_gradient(kernels, qkv)
    split = jax.device_put(qkv, batch_sharding(mesh))
    spread = output_and_gradient(traced_on(mesh, kernels), split)
    for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
        assert a.sharding.is_equivalent_to(batch_sharding(mesh), a.ndim)


def test_blocks_waste_little_and_fit():
    rows = tpu_attention.block_rows
    assert rows((32, 1568, 6, 64), 1568) == 224  # 7 blocks and nothing left over
    assert rows((32, 160, 12, 64), 160) == 160 and rows((256, 197, 12, 64), 197) == 208
    assert 0 < rows((1, 3136, 12, 64), 3136) < 224, "more keys, smaller blocks"
    for shape, keys in (((1, 8000, 12, 64), 8000), ((1, 160, 16, 80), 160), ((1, 160, 8, 40), 160)):
        assert rows(shape, keys) == 0, "too many keys; heads that do not share 128 lanes evenly"


@pytest.mark.parametrize(
    "shape,dtype",
    [((8, 16, 8, 80), jnp.bfloat16), ((1, 16, 2, 64), jnp.bfloat16), ((8, 16, 2, 64), jnp.float32)],
    ids=("heads of ViT-H", "one clip on eight devices", "32 bits"),
)
def test_what_the_kernels_cannot_take_is_computed_without_them(shape, dtype, devices):
    """On a CPU the kernels themselves would raise."""
    qkv = make_qkv(shape, shape[1], dtype)
    found = jax.jit(traced_on(make_mesh(), lambda q, k, v: attend(q, k, v, "pallas")))(*qkv)
    np.testing.assert_array_equal(found, jax.jit(plain)(*qkv))


def test_what_the_kernels_can_take_goes_to_them(devices):
    with pytest.raises(ValueError, match="Only interpret mode is supported on CPU"):
        jax.jit(lambda q, k, v: attend(q, k, v, "pallas"))(*make_qkv((1, 16, 2, 64), 16, jnp.bfloat16))


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='libtpu is not installed (pip install -e ".[tpu]")'
)
def test_compiles_for_a_tpu():
    mesh = make_mesh(devices=topology_devices("v5e:4x4"))

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v, "pallas").astype(jnp.float32))

    q, k = (jax.ShapeDtypeStruct((32, n, 6, 64), jnp.bfloat16, sharding=batch_sharding(mesh)) for n in (1408, 1568))
    compiled = jax.jit(traced_on(mesh, jax.grad(loss, (0, 1, 2)))).lower(q, k, k).compile()
    text = compiled.as_text()
    assert "attention_forward" in text or "attention_backward" in text
    assert "all-gather" not in text and compiled.memory_analysis().temp_size_in_bytes < 2 * 1568 * 1568 * 4
