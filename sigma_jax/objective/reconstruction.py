"""L2 regression: the VideoMAE control (pixel targets), feature regression (teacher targets), and the collapse control
(targets learned together with the predictions, the failure that SIGMA's balanced assignments prevent)."""

import jax
import jax.numpy as jnp


def reconstruction_loss(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error over all elements, fp32 scalar; the authors' numbers: tests/goldens/pretrain_pixel_l2.npz.

    Args:
      predictions, targets: [B M C].
    """
    return jnp.mean(jnp.square(predictions.astype(jnp.float32) - targets.astype(jnp.float32)))


def target_spread(targets: jax.Array) -> jax.Array:
    """Standard deviation of targets over clips and tubes, averaged over their width; it is 0 after a collapse.

    Args:
      targets: [B M C].

    Returns:
      fp32 scalar; no gradient.
    """
    flat = jax.lax.stop_gradient(targets).astype(jnp.float32).reshape(-1, targets.shape[-1])
    return jnp.mean(jnp.std(flat, axis=0))
