"""The prototypes: K learnable unit vectors, and how similar features are to them.

Letters: K prototypes, E target width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sigma_jax.ops.scores import product


class Prototypes(nn.Module):
    """The parameter `prototypes` [K E], beside those of the network: the objective alone reads it."""

    count: int
    width: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("prototypes", nn.initializers.normal(1.0), (self.count, self.width))


def unit_rows(x: jax.Array, minimum: float = 1e-12) -> jax.Array:
    """Rows scaled to unit length, computed in fp32; rows shorter than `minimum` are divided by it."""
    x = x.astype(jnp.float32)
    norm = jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), minimum**2))
    return x / norm


def constrain(params: dict) -> dict:
    """Scales the prototypes among the parameters to unit length.

    As in the authors' code this happens at the start of a step, outside the gradient; differentiating through the
    scaling would give another gradient. The optimizer then updates the scaled prototypes.
    """
    if "prototypes" not in params:
        return params
    return {**params, "prototypes": unit_rows(params["prototypes"])}


def cosine_scores(features: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Cosine similarities of features [n E] to prototypes [K E] with unit rows: scores [n K] in [-1, 1], fp32.

    The product is fp32 on every platform (`scores1/2` in tests/goldens). Training uses `ops.scores.keep_scores`.
    """
    return product(unit_rows(features), prototypes, (1, 1), "float32")
