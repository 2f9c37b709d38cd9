"""Cross-entropy of scores against assignments, with a backward pass that goes straight to features and prototypes.

Only log-sum-exp and one score per row are needed for a hard assignment; the backward pass forms softmax - assignment in
one pass over the kept scores, in their precision, and multiplies it: no softmax, no one-hot and no fp32 gradient of
the scores is stored. The factor 1 / (n tau) is applied after the products, so that 16 bits do not underflow.

Letters: n tokens, K prototypes, E width, tau temperature.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sigma_jax.ops import row_blocks
from sigma_jax.ops.scores import Sweeps, product, widen

# Scores are cosines, so exponents lie in [-2/tau, 0] after subtracting 1/tau: no search for the row's largest score is
# needed while exp(-2/tau) stays inside fp32.
PLAIN_TEMPERATURE = 0.025


def _shifted_logits(scores: jax.Array, temperature: float) -> jax.Array:
    """Kept scores [n K] -> scores / temperature, less a number per row that makes exp safe; fp32."""
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
      features: [n E], prototypes: [K E], both with unit rows: what the gradient goes to.
      scores: [n K], theirs, as `ops.scores.keep_scores` kept them.
      assigned: [n] int32, one prototype per token, or [n K] float, rows that sum to 1; no gradient.
      temperature: of the softmax.
      sweeps: how the scores were made and are read.

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
    """What the backward pass needs: of features and prototypes only what the other's gradient is made of."""
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
