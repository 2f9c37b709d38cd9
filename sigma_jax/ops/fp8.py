"""Matrix products of 8-bit floating-point numbers (e4m3), scaled per tensor, for weights that are not trained.

The scale of activations follows from weights alone: a bound of what can come out of a layer norm, of an average of
value vectors, of a linear layer. So no number overflows and no pass over the activations looks for their largest one.
Bounds are loose, which costs little: e4m3 keeps its 4 bits over a range of 2^15. Scales are powers of two, with which
nothing else is rounded.

Letters: D width, F outputs. The products are written as what they mean, of numbers that were rounded to 8 bits; XLA
makes them cuBLASLt's products of 8-bit numbers on a GPU that has such (Hopper), and the same numbers elsewhere.
"""

import jax
import jax.numpy as jnp
from jax import lax

DTYPE = jnp.float8_e4m3fn
LARGEST = 448.0  # of e4m3
OLDEST_GPU = 8.9  # compute capability of the first GPUs that multiply such numbers


def round_to_fp8(x: jax.Array, bound: jax.Array, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """x, with abs(x) <= bound, as the nearest 8-bit number times one power of two; of `dtype`, default that of x."""
    dtype = x.dtype if dtype is None else dtype
    scale = jnp.exp2(jnp.ceil(jnp.log2(jnp.maximum(bound, 1e-30) / LARGEST)))
    small = jnp.clip(x.astype(jnp.float32) / scale, -LARGEST, LARGEST)  # a rounded x may pass its bound by a bit
    return small.astype(DTYPE).astype(dtype) * scale.astype(dtype)


def product(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """x [... D] from `round_to_fp8`, times the kernel [D F] rounded to 8 bits, plus the bias [F]; summed in fp32."""
    kernel = round_to_fp8(kernel, jnp.max(jnp.abs(kernel)).astype(jnp.float32), x.dtype)
    y = lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
    return y if bias is None else y + bias.astype(y.dtype)


def norm_bounds(scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(largest entry, largest Euclidean length) of a layer norm's output, for its scale and bias [D].

    A standardised row of D numbers has length sqrt(D).
    """
    scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
    root = scale.shape[0] ** 0.5
    return jnp.max(jnp.abs(scale) * root + jnp.abs(bias)), jnp.max(jnp.abs(scale)) * root + jnp.linalg.norm(bias)


def output_bound(kernel: jax.Array, length: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Largest entry of x @ kernel + bias for rows x of Euclidean length `length` at most."""
    reach = length * jnp.sqrt(jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=0))
    return jnp.max(reach if bias is None else reach + jnp.abs(bias.astype(jnp.float32)))
