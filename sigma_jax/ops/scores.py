"""How the matrix of cosine similarities is stored: fp32 on CPUs, 16 bits on accelerators, which are slow to read it.

Letters: n tokens, K prototypes, E width.

The precision of the products is stated here and does not depend on the platform's default: fp32 operands are multiplied
in fp32; 16-bit operands are multiplied exactly and summed in fp32, and a score is rounded once. Whatever is computed
from stored scores (Sinkhorn's sums, softmax, log-sum-exp) is computed in fp32.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from sigma_jax.runtime.errors import InvalidValue

SCORE_DTYPES = ("float32", "float16", "bfloat16", "int16")
FIXED_POINT = 32767.0  # int16 stores round(32767 * score): the same resolution for every score


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """How scores are computed, stored and read by Sinkhorn's sweeps and by the loss.

    The default is the plain form, against which the others are tested.

    Attributes:
      dtype: type of the stored scores, one of SCORE_DTYPES.
      block_rows: rows per block in which fp32 scores are read, 0 for all at once.
      operands: type of the operands of the products that make scores, and of those that make gradients from them;
        "" for that of the scores (float16 for int16).
    """

    dtype: str = "float32"
    block_rows: int = 0
    operands: str = ""

    def __post_init__(self):
        if self.dtype not in SCORE_DTYPES:
            raise InvalidValue(f"sweep dtype {self.dtype!r} is unknown: choose one of auto, {', '.join(SCORE_DTYPES)}")
        if not self.operands:
            object.__setattr__(self, "operands", "float16" if self.dtype == "int16" else self.dtype)


def platform_sweeps(platform: str, dtype: str = "auto") -> Sweeps:
    """The form that suits 'cpu', 'gpu' or 'tpu' (measurements: launch/BENCHMARKS.md).

    Accelerators store 16 bits, because their time goes into reading scores. Scores lie close together, and a token's
    prototype is the largest of thousands: fixed-point numbers tell more of them apart than 16-bit floats do. The
    operands on a TPU are bfloat16, the type that its matrix unit multiplies.
    """
    if dtype == "auto":
        dtype = {"gpu": "int16", "tpu": "int16"}.get(platform, "float32")
    operands = "bfloat16" if platform == "tpu" and dtype == "int16" else ""
    return Sweeps(dtype, block_rows=64 if platform == "cpu" and dtype == "float32" else 0, operands=operands)


def product(a: jax.Array, b: jax.Array, contract: tuple[int, int], operands: str, out: str = "float32") -> jax.Array:
    """Product of two matrices, summed over one dimension of each.

    Args:
      a, b: two matrices of any float type.
      contract: the dimension of `a` and the dimension of `b` that are summed over.
      operands: type to which both are rounded before they are multiplied.
      out: type of the result; sums are accumulated in fp32 in any case.
    """
    precision = lax.Precision.HIGHEST if operands == "float32" else lax.Precision.DEFAULT
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    a, b = a.astype(operands), b.astype(operands)
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.dtype(out))


def keep_scores(features: jax.Array, prototypes: jax.Array, sweeps: Sweeps) -> jax.Array:
    """Cosine similarities of features [n E] and prototypes [K E], both with unit rows -> [n K], `sweeps.dtype`.

    Gradients are stopped.
    """
    features, prototypes = lax.stop_gradient((features, prototypes))
    if sweeps.dtype != "int16":
        return product(features, prototypes, (1, 1), sweeps.operands, sweeps.dtype)
    scores = product(features, prototypes, (1, 1), sweeps.operands)
    return jnp.round(jnp.clip(scores, -1.0, 1.0) * FIXED_POINT).astype(jnp.int16)


def widen(scores: jax.Array) -> jax.Array:
    """Stored scores as fp32 numbers in [-1, 1]."""
    wide = scores.astype(jnp.float32)
    return wide / FIXED_POINT if scores.dtype == jnp.int16 else wide
