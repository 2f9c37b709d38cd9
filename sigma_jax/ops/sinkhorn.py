"""Sinkhorn: assignments of tokens to prototypes that are balanced over the global batch.

Letters: n tokens on this device, N tokens on all devices, K prototypes, S [n K] scores (cosine similarities in
[-1, 1]), E = exp(S / epsilon).

The published loop rescales Q = diag(b) E diag(a) in place; only the scalings matter, so Q is never built:

    a_k = 1 / (K * sum_j E_jk b_j)     every prototype receives 1/K of the mass
    b_j = 1 / (N * sum_k E_jk a_k)     every token gives 1/N

b starts constant. Since b_j is common to a token's row, assignments follow from `a` alone:

    soft: softmax_k(S_jk / epsilon + log a_k)      hard: argmax_k(S_jk / epsilon + log a_k)

How the sweeps read the scores depends on the platform (`ops.scores.Sweeps`); results differ by rounding only. On a CPU,
E is computed once and read once per sweep, a row block at a time, so that the second product of a block finds it in the
cache. On an accelerator the scores are stored in 16 bits and exp is computed inside the sums, in fp32, so that a sweep
reads 2 x 2 bytes per score instead of 2 x 4 and E is never stored.

The only thing that crosses devices is the K-vector of prototype masses. Keep the 1/N: without it `a` shrinks N-fold
per sweep and leaves the range of fp32. Method: Cuturi 2013, as in SwAV (Caron et al. 2020) and Salehi et al. 2024;
equal to the authors' numbers in tests/goldens/sinkhorn.npz and the `q` of tests/goldens/pretrain_*.npz.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from sigma_jax.ops import row_blocks
from sigma_jax.ops.scores import Sweeps, widen
from sigma_jax.runtime.errors import InvalidValue

# exp(1/epsilon) and products of two such numbers must stay inside fp32: 2 / 0.025 = 80 < ln(3e38) = 88.
PLAIN_EPSILON = 0.025


def prototype_scalings(scores: jax.Array, **settings) -> tuple[jax.Array, jax.Array]:
    """`joint_prototype_scalings` of one matrix of scores [n K]: (log_scalings [K], marginal_error)."""
    return joint_prototype_scalings((scores,), **settings)[0]


def joint_prototype_scalings(
    sides: tuple[jax.Array, ...],
    *,
    epsilon: float,
    num_iters: int,
    axis_names: tuple[str, ...] = (),
    sweeps: Sweeps = Sweeps(),  # noqa: B008
) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """Runs Sinkhorn on this device's scores, balanced over all devices of `axis_names`.

    Matrices are balanced independently of each other, but sweep by sweep side by side, so that the masses of all of
    them can cross the devices in one exchange.

    Args:
      sides: matrices [n K] as `ops.scores.keep_scores` made them.
      epsilon: entropy regularisation; below 0.025 the sweeps run in the log domain (slower, finite for any epsilon).
      num_iters: sweeps, at least 1 (published: 10).
      axis_names: mesh axes to sum over inside shard_map; () on one device.
      sweeps: its `block_rows` say how fp32 scores are read; 16-bit scores are read as a whole.

    Returns:
      For each matrix
      log_scalings: log a, [K] fp32, equal on all devices.
      marginal_error: scalar, largest relative deviation of a prototype's share from 1/K before the last sweep; 0 where
        there is one sweep only.

    Raises:
      InvalidValue: epsilon is not positive, or there is no sweep.
    """
    if epsilon <= 0 or num_iters < 1:
        raise InvalidValue(f"Sinkhorn needs epsilon > 0 and num_iters >= 1, got epsilon={epsilon}, {num_iters=}")

    def sweep_of(scores):
        scores = lax.stop_gradient(scores)
        total = scores.shape[0] * _device_count(axis_names)
        if epsilon < PLAIN_EPSILON:
            return _log_sweep(scores, epsilon, total, axis_names)
        if scores.dtype == jnp.float32:
            return _plain_sweep(scores, epsilon, total, axis_names, sweeps.block_rows)
        return _fused_sweep(scores, epsilon, total, axis_names)

    next_scalings = [sweep_of(scores) for scores in sides]
    first = tuple(sweep(None) for sweep in next_scalings)
    if num_iters == 1:
        return tuple((log_a, jnp.zeros(())) for log_a in first)

    def sweep_all(_, log_as):
        return tuple(sweep(log_a) for sweep, log_a in zip(next_scalings, log_as, strict=True))

    before = lax.fori_loop(1, num_iters - 1, sweep_all, first)
    last = sweep_all(None, before)
    return tuple((b, jnp.max(jnp.abs(jnp.expm1(a - b)))) for a, b in zip(before, last, strict=True))


def _device_count(axis_names: tuple[str, ...]) -> int:
    count = 1
    for name in axis_names:
        count *= lax.axis_size(name)
    return count


def _sum_over(x: jax.Array, axis_names: tuple[str, ...]) -> jax.Array:
    return lax.psum(x, axis_names) if axis_names else x


def _plain_sweep(scores: jax.Array, epsilon: float, total: int, axis_names: tuple[str, ...], block_rows: int):
    """One sweep as two matrix-vector products per row block with E = exp(scores / epsilon), which is formed once.

    The products are fp32 on every platform.
    """
    multiply = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    kernel = jnp.exp(scores / epsilon)  # [n K]
    num_tokens, num_prototypes = kernel.shape
    blocks, rest = row_blocks.split(kernel, block_rows if 0 < block_rows < num_tokens else num_tokens)

    def next_scalings(log_a):
        if log_a is None:
            masses = jnp.sum(kernel, axis=0) / total
        else:
            a = jnp.exp(log_a)

            def block_masses(rows):
                shares = 1.0 / (total * multiply(rows, a))  # b: every token gives 1/N
                return multiply(shares, rows)

            masses = row_blocks.sum_over(block_masses, blocks, rest)
        masses = _sum_over(masses, axis_names)
        return -jnp.log(num_prototypes * masses)  # log a [K]: every prototype receives 1/K

    return next_scalings


def _fused_sweep(scores: jax.Array, epsilon: float, total: int, axis_names: tuple[str, ...]):
    """The same sweep straight from 16-bit scores: exp in fp32 on the way into two reductions, E is never stored."""
    num_prototypes = scores.shape[1]

    def next_scalings(log_a):
        logits = widen(scores) / epsilon
        if log_a is None:
            masses = jnp.sum(jnp.exp(logits), axis=0) / total
        else:
            shares = 1.0 / (total * jnp.sum(jnp.exp(logits) * jnp.exp(log_a), axis=1))
            masses = jnp.sum(jnp.exp(logits) * shares[:, None], axis=0)
        return -jnp.log(num_prototypes * _sum_over(masses, axis_names))

    return next_scalings


def _log_sweep(scores: jax.Array, epsilon: float, total: int, axis_names: tuple[str, ...]):
    """The same sweep in the log domain: finite for any epsilon."""
    num_prototypes = scores.shape[1]

    def next_scalings(log_a):
        logits = widen(scores) / epsilon
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
    """Soft assignments [n K] of scores [n K], fp32, whose rows sum to 1 (`q` in tests/goldens)."""
    return jax.nn.softmax(widen(scores) / epsilon + log_scalings, axis=-1)


def hard_assignments(scores: jax.Array, log_scalings: jax.Array, epsilon: float, block_rows: int = 0) -> jax.Array:
    """Each token's prototype, int32 [n]: the argmax of its soft assignment (`target_from_q*` in tests/goldens).

    Args:
      scores: [n K] as `ops.scores.keep_scores` made them.
      log_scalings: [K], of prototype_scalings.
      epsilon: the one that Sinkhorn ran with.
      block_rows: rows per block (as in `Sweeps`), 0 for all at once. A block's argmax is a maximum and a search for it,
        because XLA does not vectorise argmax on CPUs.
    """
    offsets = epsilon * log_scalings  # argmax of S + epsilon log a, which saves the division of every score by epsilon

    def argmax(rows):
        return jnp.argmax(widen(rows) + offsets, axis=-1).astype(jnp.int32)

    def search(rows):
        values = widen(rows) + offsets
        column = lax.broadcasted_iota(jnp.int32, values.shape, 1)
        found = jnp.min(jnp.where(values >= jnp.max(values, axis=1, keepdims=True), column, values.shape[1]), axis=1)
        # A compiler may round `values` differently in the two passes (with and without a fused multiply-add): then a
        # maximum is not found again. Nor is it in a row of NaN.
        return lax.cond(jnp.all(found < values.shape[1]), lambda: found, lambda: argmax(rows))

    return row_blocks.map_rows(search if block_rows else argmax, scores, block_rows)
