"""Cross-entropy of scores against assignments, with a custom backward pass to features and prototypes.

For a hard assignment the loss needs only the log-sum-exp and one score of every row. The backward pass computes softmax
- assignment in one pass over the stored scores and multiplies it by prototypes and features, so that no softmax,
one-hot matrix or fp32 gradient of the scores is stored. The factor 1 / (n tau) is applied after the products, so that
16-bit operands do not underflow.

Letters: n tokens, K prototypes, E width, tau temperature.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sigma_jax.ops import row_blocks
from sigma_jax.ops.scores import Sweeps, product, widen

# Scores are cosines, so scores / tau - 1 / tau lies in [-2 / tau, 0]. While exp(-2 / tau) is within fp32, subtracting
# the largest score of a row is not necessary.
PLAIN_TEMPERATURE = 0.025


def _shifted_logits(scores: jax.Array, temperature: float) -> jax.Array:
    """Logits scores / temperature, fp32 [n K], minus a number per row that keeps exp within range."""
    logits = widen(scores) / temperature
    if temperature < PLAIN_TEMPERATURE:
        return logits - jnp.max(logits, axis=1, keepdims=True)
    return logits - 1.0 / temperature


def _log_sums(scores: jax.Array, temperature: float, block_rows: int = 0) -> jax.Array:
    """log sum_k exp of the shifted logits, [n] fp32."""

    def log_sums(rows):
        return jnp.log(jnp.sum(jnp.exp(_shifted_logits(rows, temperature)), axis=1))

    return row_blocks.map_rows(log_sums, scores, block_rows)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def cross_entropy(
    features: jax.Array,
    prototypes: jax.Array,
    scores: jax.Array,
    assigned: jax.Array,
    temperature: float,
    sweeps: Sweeps,
) -> jax.Array:
    """Mean over tokens of -sum_k assigned_k log softmax(scores / temperature)_k.

    Args:
      features: [n E] with unit rows; receives a gradient.
      prototypes: [K E] with unit rows; receives a gradient.
      scores: [n K], their cosine similarities, as `ops.scores.keep_scores` returned them.
      assigned: [n] int32, one prototype per token, or [n K] float, rows that sum to 1; no gradient.
      temperature: of the softmax.
      sweeps: how the scores were computed and are read.

    Returns:
      fp32 scalar.
    """
    return _loss(scores, assigned, temperature, sweeps.block_rows)[0]


def _loss(scores, assigned, temperature, block_rows):
    """(loss, log-sum-exp of every row)."""
    log_sums = _log_sums(scores, temperature, block_rows)
    if assigned.ndim == 2:
        return jnp.mean(log_sums - jnp.sum(assigned * _shifted_logits(scores, temperature), axis=1)), log_sums
    chosen = widen(jnp.take_along_axis(scores, assigned[:, None], axis=1)) / temperature
    peak = 1.0 / temperature
    if temperature < PLAIN_TEMPERATURE:
        peak = widen(jnp.max(scores, axis=1, keepdims=True)) / temperature
    return jnp.mean(log_sums - (chosen - peak)[:, 0]), log_sums


def _forward(features, prototypes, scores, assigned, temperature, sweeps):
    """Loss and residuals; prototypes are kept only if features need a gradient, and features only if prototypes do."""
    loss, log_sums = _loss(scores.value, assigned.value, temperature, sweeps.block_rows)
    for_features = prototypes.value if features.perturbed else None
    for_prototypes = features.value if prototypes.perturbed else None
    return loss, (for_features, for_prototypes, scores.value, assigned.value, log_sums)


def _backward(temperature, sweeps, saved, gradient):
    for_features, for_prototypes, scores, assigned, log_sums = saved
    difference = jnp.exp(_shifted_logits(scores, temperature) - log_sums[:, None])
    if assigned.ndim == 1:
        assigned = lax.broadcasted_iota(assigned.dtype, scores.shape, 1) == assigned[:, None]
    difference = difference - assigned
    scale = gradient / (scores.shape[0] * temperature)
    dfeatures = dprototypes = None
    if for_features is not None:
        dfeatures = scale * product(difference, for_features, (1, 0), sweeps.operands)
    if for_prototypes is not None:
        dprototypes = scale * product(difference, for_prototypes, (0, 0), sweeps.operands)
    return dfeatures, dprototypes, None, None


cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)
