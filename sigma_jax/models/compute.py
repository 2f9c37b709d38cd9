"""How a model's arithmetic is done."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Compute:
    """None of it changes what is computed, up to rounding.

    backend: of attention (ops/attention.py). remat: what the backward pass computes again (models/transformer.py).
    unroll: blocks per scan step, 0 for all.
    """

    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"
    remat: str = "none"
    unroll: int = 1
