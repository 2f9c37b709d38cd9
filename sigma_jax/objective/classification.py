"""Cross-entropy for classes: hard labels, label smoothing, soft targets.

Letters: B clips, C classes. Equal to the authors' numbers in tests/goldens/finetune_cls.npz (`loss_ce`,
`loss_smooth0.1`, `loss_soft`).
"""

import jax
import jax.numpy as jnp


def smoothed_targets(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Soft targets [B C] of labels int [B]: 1 - s + s/C at the label, s/C elsewhere."""
    return jax.nn.one_hot(labels, num_classes) * (1.0 - smoothing) + smoothing / num_classes


def soft_target_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over clips of -sum_c targets_c log softmax(logits)_c; logits [B C], targets [B C] -> fp32 scalar."""
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1))


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy, fp32 scalar, of logits [B C] and labels int [B], with label smoothing."""
    return soft_target_cross_entropy(logits, smoothed_targets(labels, logits.shape[-1], smoothing))
