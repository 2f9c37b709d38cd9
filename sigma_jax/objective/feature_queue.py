"""An optional memory of past features, so that Sinkhorn balances more tokens than a small batch has.

After SwAV (Caron et al. 2020); not part of SIGMA's recipe, off by default. The features of the last q batches are
scored with today's prototypes and join the batch in Sinkhorn; only the batch's own tokens are predicted. The queue
joins once it is full and `start` batches have passed: features that still change fast mislead, and runs are known to
jump to ln K when a queue starts.

Letters: q batches kept, n tokens of a batch, E target width. Kept as [q n E], newest first, `n` split over the devices
as the batch is: the queue holds the same tokens whatever the number of devices.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

SIDES = ("pred", "proj")
Queue = dict[str, jax.Array]


def empty_queue(num_batches: int, tokens: int, width: int) -> Queue:
    """{'pred', 'proj': zeros [q n E] fp32, 'seen': batches pushed so far, int32}."""
    sides = {side: jnp.zeros((num_batches, tokens, width), jnp.float32) for side in SIDES}
    return sides | {"seen": jnp.zeros((), jnp.int32)}


def queue_specs(batch_axes: tuple[str, ...]) -> dict[str, P]:
    """How a queue is spread over a mesh whose `batch_axes` split the tokens."""
    return {side: P(None, batch_axes) for side in SIDES} | {"seen": P()}


def is_active(queue: Queue, start: int) -> jax.Array:
    """Whether the queue joins: it is full, and at least `start` batches have been seen."""
    return queue["seen"] >= max(start, queue["pred"].shape[0])


def push(queue: Queue, predictions: jax.Array, projections: jax.Array) -> Queue:
    """The queue with a batch's features [n E] in front and its oldest batch gone; no gradient."""

    def shifted(kept, new):
        return jnp.concatenate([lax.stop_gradient(new).astype(jnp.float32)[None], kept[:-1]])

    sides = {side: shifted(queue[side], new) for side, new in zip(SIDES, (predictions, projections), strict=True)}
    return sides | {"seen": queue["seen"] + 1}
