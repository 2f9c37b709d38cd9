"""L2 regression: the VideoMAE control (pixel targets) and the feature-regression ablation (teacher targets)."""

import jax
import jax.numpy as jnp


def reconstruction_loss(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error over everything, fp32 scalar (goldens/pretrain_pixel_l2).

    Args:
      predictions, targets: [B M C].
    """
    return jnp.mean(jnp.square(predictions.astype(jnp.float32) - targets.astype(jnp.float32)))
