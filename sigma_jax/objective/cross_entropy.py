"""Cross-entropy of scores against assignments.

With a hard assignment only log-sum-exp and one score per row are needed; the backward pass forms the scores' gradient,
(softmax - onehot) / (n tau), in one pass over the scores: neither softmax nor one-hot targets are stored.

Letters: n tokens, K prototypes, tau temperature.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sigma_jax.ops import row_blocks

# Scores are cosines, so exponents lie in [-2/tau, 0] after subtracting 1/tau: no search for the row's largest score is
# needed while exp(-2/tau) stays inside fp32.
PLAIN_TEMPERATURE = 0.025


def _shifted_logits(scores: jax.Array, temperature: float) -> jax.Array:
    """scores [n K] in [-1, 1] -> scores / temperature, less a number per row that makes exp safe; fp32."""
    logits = scores.astype(jnp.float32) / temperature
    if temperature < PLAIN_TEMPERATURE:
        return logits - jnp.max(logits, axis=1, keepdims=True)
    return logits - 1.0 / temperature


def _log_sums(scores: jax.Array, temperature: float, block_rows: int = 0) -> jax.Array:
    """log sum_k exp of the shifted logits, [n] fp32."""

    def log_sums(rows):
        return jnp.log(jnp.sum(jnp.exp(_shifted_logits(rows, temperature)), axis=1))

    return row_blocks.map_rows(log_sums, scores, block_rows)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def hard_cross_entropy(scores: jax.Array, assigned: jax.Array, temperature: float, block_rows: int = 0) -> jax.Array:
    """Mean over tokens of -log softmax(scores / temperature)[assigned].

    Args:
      scores: [n K] in [-1, 1].
      assigned: [n] int32.
      block_rows: as in sinkhorn.Sweeps.

    Returns:
      fp32 scalar; differentiable in the scores.
    """
    return _forward(scores, assigned, temperature, block_rows)[0]


def _forward(scores, assigned, temperature, block_rows):
    log_sums = _log_sums(scores, temperature, block_rows)
    chosen = jnp.take_along_axis(scores, assigned[:, None], axis=1).astype(jnp.float32) / temperature
    peak = 1.0 / temperature
    if temperature < PLAIN_TEMPERATURE:
        peak = jnp.max(scores, axis=1, keepdims=True).astype(jnp.float32) / temperature
    return jnp.mean(log_sums - (chosen - peak)[:, 0]), (scores, assigned, log_sums)


def _backward(temperature, block_rows, saved, gradient):
    del block_rows  # the gradient is one elementwise pass
    scores, assigned, log_sums = saved
    softmax = jnp.exp(_shifted_logits(scores, temperature) - log_sums[:, None])
    columns = lax.broadcasted_iota(assigned.dtype, scores.shape, 1)
    difference = softmax - (columns == assigned[:, None])
    return (difference * (gradient / (scores.shape[0] * temperature))).astype(scores.dtype), None


hard_cross_entropy.defvjp(_forward, _backward)


def soft_cross_entropy(scores: jax.Array, assigned: jax.Array, temperature: float) -> jax.Array:
    """Mean over tokens of -sum_k assigned_k log softmax(scores / temperature)_k; both [n K] -> scalar.

    Rows of `assigned` sum to 1.
    """
    logits = _shifted_logits(scores, temperature)
    return jnp.mean(_log_sums(scores, temperature) - jnp.sum(assigned * logits, axis=1))
