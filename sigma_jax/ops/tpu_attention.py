"""Attention kernels for TPUs (Pallas): whole rows of attention weights, which are never written to HBM.

At the lengths of video models (1568 keys) a block of rows of the weights fits the chip's vector memory with all keys,
so the softmax needs no running maximum, and the backward pass recomputes the weights from q and k: only q, k and v are
saved for it. Heads stay where the matrix products put them, side by side in the last dimension. A program works on a
group of heads that fills the 128 lanes, one head at a time with the others' lanes set to zero, which costs nothing,
since the matrix unit is 128 wide. Padding rows and padding keys are zeroed and masked in the kernel.

Letters: B clips, Q queries, N keys, H heads, d head width, R rows of a block, L lanes of a group of heads.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
MAX_ROWS = 256
MEMORY = 14 * 2**20  # bytes of vector memory that block_rows plans with, of the 16 MiB that the compiler allows
MASKED = -1e30


def block_rows(q_shape: tuple[int, ...], num_keys: int) -> int:
    """R for q [B Q H d], or 0 where the kernels cannot take these sizes.

    The kernels need groups of whole heads in 128 lanes (or all heads together in at most 256), and room in the chip's
    vector memory for the keys of a group with their gradients (up to about 3500 keys).
    """
    _, queries, heads, width = q_shape
    lanes = _group_lanes(heads, width)
    keys = _round_up(num_keys, LANES)
    # For each key and lane: k and v, and their gradients, in 16 bits with two buffers each, and both sums in 32 bits.
    # What is left holds six [R N] matrices of 32 bits.
    left = MEMORY - keys * lanes * (8 + 8 + 8)
    rows = min(MAX_ROWS, left // (6 * 4 * keys)) if lanes else 0
    if rows < 16:
        return 0
    blocks = -(-queries // (rows // 16 * 16))
    return _round_up(-(-queries // blocks), 16)


def takes(q: jax.Array, num_keys: int) -> bool:
    """Whether the kernels support q [B Q H d]: 16 bits, sizes that fit, and clips that the mesh divides."""
    devices = max(1, jax.sharding.get_abstract_mesh().size)  # 0 without a context
    return q.dtype.itemsize == 2 and block_rows(q.shape, num_keys) > 0 and len(q) % devices == 0


def _group_lanes(heads: int, width: int) -> int:
    if LANES % width == 0 and heads * width % LANES == 0:
        return LANES
    return heads * width if heads * width <= 2 * LANES else 0


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def attend_on_tpu(q: jax.Array, k: jax.Array, v: jax.Array, interpret: bool = False) -> jax.Array:
    """softmax(q k^T) v; q is scaled already.

    Args:
      q: [B Q H d]; k, v: [B N H d], sizes for which `block_rows` is not 0.
      interpret: run the kernels as plain JAX on any platform: for tests.

    Returns:
      [B Q H d]; differentiable once in reverse mode.
    """
    flat = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
    rows = block_rows(q.shape, k.shape[1])
    settings = (q.shape[3], _group_lanes(*q.shape[2:]), rows, interpret)
    return _attention(settings, *flat).reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(settings, q, k, v):
    """q [B Q W], k, v [B N W] with W = H d -> [B Q W]; settings: (d, L, R, interpret)."""
    return _per_device(_forward, settings)(q, k, v)


def _attention_forward(settings, q, k, v):
    return _attention(settings, q, k, v), (q, k, v)


def _attention_backward(settings, saved, gradient):
    return _per_device(_backward, settings)(*saved, gradient)


_attention.defvjp(_attention_forward, _attention_backward)


def _per_device(function, settings):
    """Maps `function` over the devices of the context's mesh, by clips, since XLA cannot partition a kernel itself."""
    one_device = functools.partial(function, settings)
    axes = jax.sharding.get_abstract_mesh().axis_names
    if not axes:
        return one_device
    return jax.shard_map(one_device, in_specs=jax.P(axes), out_specs=jax.P(axes), check_vma=False)


def _dot(a, b, contracted):
    dimensions = (contracted[:1], contracted[1:]), ((), ())
    # Products of 16-bit numbers are exact in fp32; Mosaic refuses them at any precision but the default one.
    precision = lax.Precision.DEFAULT if a.dtype.itemsize == 2 else lax.Precision.HIGHEST
    return lax.dot_general(a, b, dimensions, precision, preferred_element_type=jnp.float32)


def _grid_and_specs(settings, q_shape, num_keys):
    _, lanes, rows, _ = settings
    batch, queries, width = q_shape
    row_block = pl.BlockSpec((None, rows, lanes), lambda b, g, i: (b, i, g))
    key_block = pl.BlockSpec((None, _round_up(num_keys, LANES), lanes), lambda b, g, i: (b, 0, g))
    return (batch, width // lanes, pl.cdiv(queries, rows)), row_block, key_block


def _cost(q, k, products):
    work = 2 * q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2]
    moved = (products - 1) // 2 * (q.nbytes + k.nbytes) * 2
    return pl.CostEstimate(
        flops=products * work, transcendentals=q.shape[0] * q.shape[1] * k.shape[1], bytes_accessed=moved
    )


def _zero_beyond(x, count, start=0):
    """x [R L] with the rows from `count` on set to zero; `start`: number of the first row."""
    return jnp.where(start + lax.broadcasted_iota(jnp.int32, x.shape, 0) < count, x, jnp.zeros_like(x))


def _heads(width, lanes):
    """For every head of a group, a mask [1 L] of its lanes."""
    place = lax.broadcasted_iota(jnp.int32, (1, lanes), 1) // width
    return [place == head for head in range(lanes // width)]


def _weights(q, k, num_keys):
    """Softmax numerators [R N] and their row sums [R 1] of one head."""
    logits = _dot(q, k, (1, 1))
    if num_keys < k.shape[0]:
        logits = jnp.where(lax.broadcasted_iota(jnp.int32, logits.shape, 1) < num_keys, logits, MASKED)
    weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return weights, jnp.sum(weights, axis=1, keepdims=True)


def _forward(settings, q, k, v):
    width, lanes, _, interpret = settings
    num_keys = k.shape[1]

    def kernel(q_ref, k_ref, v_ref, out_ref):
        q, k, v = q_ref[...], _zero_beyond(k_ref[...], num_keys), _zero_beyond(v_ref[...], num_keys)
        out = jnp.zeros(q.shape, jnp.float32)
        for own in _heads(width, lanes):
            weights, row_sums = _weights(jnp.where(own, q, jnp.zeros_like(q)), k, num_keys)
            out = jnp.where(own, _dot(weights.astype(v.dtype), v, (1, 0)) / row_sums, out)
        out_ref[...] = out.astype(out_ref.dtype)

    grid, row_block, key_block = _grid_and_specs(settings, q.shape, num_keys)
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[row_block, key_block, key_block],
        out_specs=row_block,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=_cost(q, k, 2),
        interpret=interpret,
        name="attention_forward",
    )(q, k, v)


def _backward(settings, q, k, v, gradient):
    width, lanes, rows, interpret = settings
    num_queries, num_keys = q.shape[1], k.shape[1]

    def kernel(q_ref, k_ref, v_ref, do_ref, dq_ref, dk_ref, dv_ref, dk_sum, dv_sum):
        block = pl.program_id(2)

        @pl.when(block == 0)
        def _():
            dk_sum[...] = jnp.zeros_like(dk_sum)
            dv_sum[...] = jnp.zeros_like(dv_sum)

        k, v = _zero_beyond(k_ref[...], num_keys), _zero_beyond(v_ref[...], num_keys)
        q, do = (_zero_beyond(ref[...], num_queries, block * rows) for ref in (q_ref, do_ref))
        dq = jnp.zeros(q.shape, jnp.float32)
        for own in _heads(width, lanes):
            q_head, do_head = (jnp.where(own, x, jnp.zeros_like(x)) for x in (q, do))
            weights, row_sums = _weights(q_head, k, num_keys)
            weights = weights / row_sums
            dv_sum[...] += _dot(weights.astype(do.dtype), do_head, (0, 0))
            dweights = _dot(do_head, v, (1, 1))
            row_dots = jnp.sum(weights * dweights, axis=1, keepdims=True)
            dlogits = (weights * (dweights - row_dots)).astype(q.dtype)
            dk_sum[...] += _dot(dlogits, q_head, (0, 0))
            dq = jnp.where(own, _dot(dlogits, k, (1, 0)), dq)
        dq_ref[...] = dq.astype(dq_ref.dtype)

        @pl.when(block == pl.num_programs(2) - 1)
        def _():
            dk_ref[...] = dk_sum[...].astype(dk_ref.dtype)
            dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)

    grid, row_block, key_block = _grid_and_specs(settings, q.shape, num_keys)
    sums = pltpu.VMEM((_round_up(num_keys, LANES), lanes), jnp.float32)
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[row_block, key_block, key_block, row_block],
        out_specs=[row_block, key_block, key_block],
        out_shape=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)),
        scratch_shapes=[sums, sums],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=_cost(q, k, 5),
        interpret=interpret,
        name="attention_backward",
    )(q, k, v, gradient)
