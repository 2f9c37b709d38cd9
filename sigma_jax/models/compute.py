"""The settings of a model's arithmetic."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is computed; all but teacher_fp8 change results by rounding only.

    Attributes:
      dtype: type of the computation; parameters are fp32.
      backend: implementation of attention, one of ops.attention.BACKENDS.
      remat: what the backward pass recomputes, a key of models.transformer.REMAT_POLICIES.
      unroll: blocks per step of the scan over blocks; 0: all.
      teacher_fp8: the frozen teacher multiplies 8-bit numbers (models/fp8.py), which does change its features.
    """

    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"
    remat: str = "none"
    unroll: int = 1
    teacher_fp8: bool = False
