"""The SIGMA objective: score, assign, swap, cross-entropy.

Letters: n tokens on this device (clips x hidden tubes), K prototypes, E target width, tau temperature. The two sides
are `pred` (the video model's predictions) and `proj` (the projection network's, or the teacher's, features).

In words, over all tokens j and prototypes k:

    for each side:   scores[j, k]  = cos(features[j], prototypes[k])
                     assignment[j] = Sinkhorn(scores)[j], balanced over the whole global batch; no gradient
    loss = mean_j  - sum_k assignment_pred[j, k] * log softmax(scores_proj[j] / tau)[k]
         + mean_j  - sum_k assignment_proj[j, k] * log softmax(scores_pred[j] / tau)[k]

with hard (argmax) assignments as in the authors' code, or soft ones as in the paper's formula (Salehi et al. 2024,
sections 3.2 and 3.3). In the pred term prototypes have no gradient: they learn from the proj term only, as in the
authors' code.

This is per-device code: inside `jax.shard_map` it has its own tokens, and only K-vectors and scalars cross devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sigma_jax.models.prototypes import unit_rows
from sigma_jax.objective.cross_entropy import cross_entropy
from sigma_jax.objective.feature_queue import Queue, is_active, push, queue_specs
from sigma_jax.ops.scores import Sweeps, keep_scores
from sigma_jax.ops.sinkhorn import hard_assignments, joint_prototype_scalings, soft_assignments
from sigma_jax.runtime.errors import InvalidValue

ASSIGNMENT_KINDS = ("hard", "soft")


def symmetric_loss(
    predictions: jax.Array,
    projections: jax.Array,
    prototypes: jax.Array,
    *,
    epsilon: float,
    num_iters: int = 10,
    temperature: float = 0.1,
    assignments: str = "hard",
    sweeps: Sweeps = Sweeps(),  # noqa: B008
    axis_names: tuple[str, ...] = (),
    queue: Queue | None = None,
    queue_start: int = 0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The symmetric cross-prediction loss of this device's tokens, averaged over all devices.

    Args:
      predictions, projections: [n E].
      prototypes: [K E], unit rows.
      epsilon, num_iters: entropy regularisation and sweeps of Sinkhorn.
      temperature: tau of the softmax.
      assignments: 'hard' (authors' code) or 'soft'.
      sweeps: how scores are stored and how Sinkhorn reads them.
      axis_names: mesh axes over which tokens are sharded, inside shard_map.
      queue, queue_start: past features that take part in Sinkhorn after so many batches (feature_queue.py); None: none.

    Returns:
      loss, fp32 scalar, and metrics: loss_proj and loss_pred, whose sum is the loss; loss_over_lnk, their mean divided
      by ln K (1 where assignments carry no information); for each side prototypes_used and assignment_entropy in [0, 1]
      (`prototype_usage`) and Sinkhorn's marginal_error (`joint_prototype_scalings`).

    Raises:
      InvalidValue: unknown assignments.
    """
    if assignments not in ASSIGNMENT_KINDS:
        raise InvalidValue(f"assignments {assignments!r} are unknown: choose one of {ASSIGNMENT_KINDS}")
    settings = {"epsilon": epsilon, "num_iters": num_iters, "axis_names": axis_names, "sweeps": sweeps}
    sinkhorn = partial(joint_prototype_scalings, **settings)

    # 1) Score.
    predictions, projections = unit_rows(predictions), unit_rows(projections)
    if axis_names:  # so that autodiff sums the devices' gradients of the prototypes
        prototypes = lax.pcast(prototypes, axis_names, to="varying")
    proj_scores = keep_scores(projections, prototypes, sweeps)
    pred_scores = keep_scores(predictions, prototypes, sweeps)

    # 2) Assign: balanced over the global batch, no gradient.
    def with_queue(sides):
        def joined(side, scores):
            past = unit_rows(queue[side].reshape(-1, queue[side].shape[-1]))
            return jnp.concatenate([scores, keep_scores(past, prototypes, sweeps)])

        return sinkhorn((joined("proj", sides[0]), joined("pred", sides[1])))

    sides = proj_scores, pred_scores
    scalings = (
        sinkhorn(sides) if queue is None else lax.cond(is_active(queue, queue_start), with_queue, sinkhorn, sides)
    )
    (proj_scalings, proj_error), (pred_scalings, pred_error) = scalings
    proj_assigned = proj_hard = hard_assignments(proj_scores, proj_scalings, epsilon, sweeps.block_rows)
    pred_assigned = pred_hard = hard_assignments(pred_scores, pred_scalings, epsilon, sweeps.block_rows)
    if assignments == "soft":
        proj_assigned = soft_assignments(proj_scores, proj_scalings, epsilon)
        pred_assigned = soft_assignments(pred_scores, pred_scalings, epsilon)

    # 3) Swap: each side predicts the other's assignment; prototypes learn from the proj side only.
    loss_of = partial(cross_entropy, temperature=temperature, sweeps=sweeps)
    proj_loss = loss_of(projections, prototypes, proj_scores, pred_assigned)
    pred_loss = loss_of(predictions, lax.stop_gradient(prototypes), pred_scores, proj_assigned)

    average = partial(lax.pmean, axis_name=axis_names) if axis_names else (lambda x: x)
    proj_loss, pred_loss = average(proj_loss), average(pred_loss)
    metrics = {"loss_proj": proj_loss, "loss_pred": pred_loss}
    num_prototypes = prototypes.shape[0]
    metrics["loss_over_lnk"] = (proj_loss + pred_loss) / (2 * jnp.log(float(num_prototypes)))
    for side, hard, error in (("proj", proj_hard, proj_error), ("pred", pred_hard, pred_error)):
        used, entropy = prototype_usage(hard, num_prototypes, axis_names)
        metrics |= {
            f"prototypes_used_{side}": used,
            f"assignment_entropy_{side}": entropy,
            f"marginal_error_{side}": error,
        }
    return proj_loss + pred_loss, metrics


def prototype_usage(
    assigned: jax.Array, num_prototypes: int, axis_names: tuple[str, ...] = ()
) -> tuple[jax.Array, jax.Array]:
    """Two signs of a collapse: the share of prototypes in use, and the entropy of their use divided by ln K.

    Args:
      assigned: [n] int32.

    Returns:
      used, entropy: scalars in [0, 1], over all devices.
    """
    counts = jnp.zeros(num_prototypes, jnp.float32).at[assigned].add(1.0)
    counts = lax.psum(counts, axis_names) if axis_names else counts
    share = counts / jnp.sum(counts)
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1.0)), 0.0))
    return jnp.mean(counts > 0), entropy / jnp.log(float(num_prototypes))


def sharded_symmetric_loss(mesh: Mesh, batch_axes: tuple[str, ...], **settings):
    """`symmetric_loss` on a mesh whose batch axes shard the clips.

    Args:
      mesh, batch_axes: the mesh, and its axes over which clips are sharded.
      settings: further arguments of symmetric_loss.

    Returns:
      A function of predictions [B M E], projections [B M E] (global arrays), prototypes [K E] and a queue (None: none).
      It returns loss, metrics and the next queue, equal to those of one device.
    """

    def local(predictions, projections, prototypes, queue):
        flat = [x.reshape(-1, x.shape[-1]) for x in (predictions, projections)]
        loss, metrics = symmetric_loss(*flat, prototypes, axis_names=batch_axes, queue=queue, **settings)
        return loss, metrics, None if queue is None else push(queue, *flat)

    def over_mesh(predictions, projections, prototypes, queue=None):
        kept = None if queue is None else queue_specs(batch_axes)
        specs = P(batch_axes), P(batch_axes), P(), kept
        sharded = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P(), P(), kept))
        return sharded(predictions, projections, prototypes, queue)

    return over_mesh
