"""Sinkhorn: assignments of tokens to prototypes that are balanced over the global batch.

Letters: n tokens on this device, N tokens on all devices, K prototypes, S [n K] scores (cosine similarities in
[-1, 1]), E = exp(S / epsilon).

The published loop rescales Q = diag(b) E diag(a) in place; only the scalings matter, so Q is never built:

    a_k = 1 / (K * sum_j E_jk b_j)     every prototype receives 1/K of the mass
    b_j = 1 / (N * sum_k E_jk a_k)     every token gives 1/N

b starts constant. Since b_j is common to a token's row, assignments follow from `a` alone:

    soft: softmax_k(S_jk / epsilon + log a_k)      hard: argmax_k(S_jk / epsilon + log a_k)

The only thing that crosses devices is the K-vector of prototype masses. Keep the 1/N: without it `a` shrinks N-fold
per sweep and leaves the range of fp32. Proved by goldens/sinkhorn and the `q` of goldens/pretrain_*.
"""

import jax
import jax.numpy as jnp
from jax import lax

# exp(1/epsilon) and products of two such numbers must stay inside fp32: 2 / 0.025 = 80 < ln(3e38) = 88.
PLAIN_EPSILON = 0.025


def prototype_scalings(
    scores: jax.Array, *, epsilon: float, num_iters: int, axis_names: tuple[str, ...] = ()
) -> tuple[jax.Array, jax.Array]:
    """Runs Sinkhorn on this device's scores, balanced over all devices of `axis_names`.

    Args:
      scores: [n K] in [-1, 1], any float dtype; computed in fp32.
      epsilon: entropy regularisation; below 0.025 the sweeps run in the log domain (slower, finite for any epsilon).
      num_iters: sweeps, at least 1 (published: 10).
      axis_names: mesh axes to sum over inside shard_map; () on one device.

    Returns:
      log_scalings: log a, [K] fp32, equal on all devices.
      marginal_error: scalar, largest relative deviation of a prototype's share from 1/K before the last sweep.
    """
    if epsilon <= 0 or num_iters < 1:
        raise ValueError(f"Sinkhorn needs epsilon > 0 and num_iters >= 1, got epsilon={epsilon}, {num_iters=}")
    sweep = _plain_sweep if epsilon >= PLAIN_EPSILON else _log_sweep
    num_tokens, num_prototypes = scores.shape
    total = num_tokens * _device_count(axis_names)
    next_scalings = sweep(lax.stop_gradient(scores).astype(jnp.float32) / epsilon, total, axis_names)

    def body(_, carry):
        log_a, _ = carry
        return next_scalings(log_a), log_a

    first = next_scalings(None)
    last, before = lax.fori_loop(1, num_iters, body, (first, first))
    marginal_error = jnp.max(jnp.abs(jnp.expm1(before - last)))
    return last, marginal_error


def _device_count(axis_names: tuple[str, ...]) -> int:
    count = 1
    for name in axis_names:
        count *= lax.axis_size(name)
    return count


def _sum_over(x: jax.Array, axis_names: tuple[str, ...]) -> jax.Array:
    return lax.psum(x, axis_names) if axis_names else x


def _plain_sweep(logits: jax.Array, total: int, axis_names: tuple[str, ...]):
    """One sweep as two matrix-vector products with E = exp(logits), which is formed once."""
    kernel = jnp.exp(logits)  # [n K]
    num_prototypes = logits.shape[1]

    def next_scalings(log_a):
        if log_a is None:
            masses = jnp.sum(kernel, axis=0) / total
        else:
            shares = 1.0 / (total * (kernel @ jnp.exp(log_a)))  # b [n]: every token gives 1/N
            masses = shares @ kernel
        masses = _sum_over(masses, axis_names)
        return -jnp.log(num_prototypes * masses)  # log a [K]: every prototype receives 1/K

    return next_scalings


def _log_sweep(logits: jax.Array, total: int, axis_names: tuple[str, ...]):
    """The same sweep in the log domain: finite for any epsilon."""
    num_prototypes = logits.shape[1]

    def next_scalings(log_a):
        if log_a is None:
            log_b = jnp.full(logits.shape[0], -jnp.log(float(total)))
        else:
            log_b = -jnp.log(float(total)) - jax.nn.logsumexp(logits + log_a, axis=1)
        shifted = logits + log_b[:, None]
        peak = jnp.max(shifted, axis=0)
        peak = lax.pmax(peak, axis_names) if axis_names else peak
        masses = _sum_over(jnp.sum(jnp.exp(shifted - peak), axis=0), axis_names)
        return -jnp.log(float(num_prototypes)) - peak - jnp.log(masses)

    return next_scalings


def soft_assignments(scores: jax.Array, log_scalings: jax.Array, epsilon: float) -> jax.Array:
    """[n K] assignments whose rows sum to 1 (goldens `q`)."""
    return jax.nn.softmax(scores.astype(jnp.float32) / epsilon + log_scalings, axis=-1)


def hard_assignments(scores: jax.Array, log_scalings: jax.Array, epsilon: float) -> jax.Array:
    """[n] int32: each token's prototype, the argmax of its assignment (goldens `target_from_q*`)."""
    return jnp.argmax(scores.astype(jnp.float32) / epsilon + log_scalings, axis=-1).astype(jnp.int32)
