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


def log_sum_exp(scores: jax.Array, temperature: float, block_rows: int = 0) -> jax.Array:
    """scores [n K] in [-1, 1] -> log sum_k exp(scores / temperature), [n] fp32; block_rows as in sinkhorn.Sweeps."""

    def rows_log_sum_exp(rows):
        logits = rows.astype(jnp.float32) / temperature
        if temperature < PLAIN_TEMPERATURE:
            return jax.nn.logsumexp(logits, axis=1)
        return jnp.log(jnp.sum(jnp.exp(logits - 1.0 / temperature), axis=1)) + 1.0 / temperature

    return row_blocks.map_rows(rows_log_sum_exp, scores, block_rows)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def hard_cross_entropy(scores: jax.Array, assigned: jax.Array, temperature: float, block_rows: int = 0) -> jax.Array:
    """Mean over tokens of -log softmax(scores / temperature)[assigned].

    Args:
      scores: [n K] in [-1, 1].
      assigned: [n] int32.

    Returns:
      fp32 scalar; differentiable in the scores.
    """
    return _forward(scores, assigned, temperature, block_rows)[0]


def _forward(scores, assigned, temperature, block_rows):
    normaliser = log_sum_exp(scores, temperature, block_rows)
    chosen = jnp.take_along_axis(scores, assigned[:, None], axis=1)[:, 0].astype(jnp.float32)
    return jnp.mean(normaliser - chosen / temperature), (scores, assigned, normaliser)


def _backward(temperature, block_rows, saved, gradient):
    del block_rows  # the gradient is one elementwise pass
    scores, assigned, normaliser = saved
    softmax = jnp.exp(scores.astype(jnp.float32) / temperature - normaliser[:, None])
    columns = lax.broadcasted_iota(assigned.dtype, scores.shape, 1)
    difference = softmax - (columns == assigned[:, None])
    return (difference * (gradient / (scores.shape[0] * temperature))).astype(scores.dtype), None


hard_cross_entropy.defvjp(_forward, _backward)


def soft_cross_entropy(scores: jax.Array, assigned: jax.Array, temperature: float) -> jax.Array:
    """Mean over tokens of -sum_k assigned_k log softmax(scores / temperature)_k; both [n K] -> scalar."""
    logits = scores / temperature
    return jnp.mean(log_sum_exp(scores, temperature) - jnp.sum(assigned * logits, axis=1))
