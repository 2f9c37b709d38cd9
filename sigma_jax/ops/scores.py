"""How a matrix of cosine similarities is kept: fp32, or 16 bits on accelerators, where reading it is what costs time.

Letters: n tokens, K prototypes, E width.

The products' precision is stated here and does not depend on the platform's default: fp32 operands are multiplied as
such; 16-bit operands are multiplied exactly and summed in fp32, and a score is rounded once. What is computed from kept
scores (Sinkhorn's sums, softmax, log-sum-exp) is computed in fp32.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from sigma_jax.runtime.errors import InvalidValue

SCORE_DTYPES = ("float32", "float16", "bfloat16", "int16")
FIXED_POINT = 32767.0  # int16 keeps round(32767 * score): 15 bits wherever the score lies


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """How scores are made, kept and read; the default is the plain form that the others are tested against.

    dtype: of the kept scores, one of SCORE_DTYPES.
    block_rows: rows per block in which fp32 scores are read, 0 for all at once.
    operands: of the products that make scores, and gradients from them; default that of the scores.
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
    """The form for 'cpu', 'gpu' or 'tpu': measured on CPU (launch/BENCHMARKS.md), by the bytes read elsewhere.

    Scores lie close together, and a token's prototype is the largest of thousands: fixed-point numbers tell more of
    them apart than 16-bit floats do. A TPU multiplies bfloat16.
    """
    if dtype == "auto":
        dtype = {"gpu": "int16", "tpu": "int16"}.get(platform, "float32")
    operands = "bfloat16" if platform == "tpu" and dtype == "int16" else ""
    return Sweeps(dtype, block_rows=64 if platform == "cpu" and dtype == "float32" else 0, operands=operands)


def product(a: jax.Array, b: jax.Array, contract: tuple[int, int], operands: str, out: str = "float32") -> jax.Array:
    """Two matrices, multiplied and summed over one dimension of each.

    Args:
      contract: the dimension of `a` and of `b` that is summed over.
      operands: type that both are rounded to before.
      out: type of the result; sums are fp32 whatever it is.
    """
    precision = lax.Precision.HIGHEST if operands == "float32" else lax.Precision.DEFAULT
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    a, b = a.astype(operands), b.astype(operands)
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.dtype(out))


def keep_scores(features: jax.Array, prototypes: jax.Array, sweeps: Sweeps) -> jax.Array:
    """features [n E], prototypes [K E], both with unit rows -> scores [n K] of `sweeps.dtype`; no gradient."""
    features, prototypes = lax.stop_gradient((features, prototypes))
    if sweeps.dtype != "int16":
        return product(features, prototypes, (1, 1), sweeps.operands, sweeps.dtype)
    scores = product(features, prototypes, (1, 1), sweeps.operands)
    return jnp.round(jnp.clip(scores, -1.0, 1.0) * FIXED_POINT).astype(jnp.int16)


def widen(scores: jax.Array) -> jax.Array:
    """Kept scores as fp32 numbers in [-1, 1]."""
    wide = scores.astype(jnp.float32)
    return wide / FIXED_POINT if scores.dtype == jnp.int16 else wide
