"""An optional queue of past features, with which Sinkhorn balances more tokens than a small batch has.

After SwAV (Caron et al. 2020); not part of SIGMA's recipe, and off by default. The features of the last q batches are
scored with the current prototypes and take part in Sinkhorn; only the batch's own tokens are predicted. The queue is
used once it is full and `start` batches have passed, because early features change too fast, and runs of SwAV have been
seen to collapse to ln K at the step at which their queue started.

Letters: q batches kept, n tokens of a batch, E target width. The queue is [q n E], newest batch first, sharded over n
as batches are: it holds the same tokens on any number of devices.
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
    """Partition specs of a queue on a mesh whose `batch_axes` shard the tokens."""
    return {side: P(None, batch_axes) for side in SIDES} | {"seen": P()}


def is_active(queue: Queue, start: int) -> jax.Array:
    """Whether the queue is used, scalar bool: it is full, and at least `start` batches have been seen."""
    return queue["seen"] >= max(start, queue["pred"].shape[0])


def push(queue: Queue, predictions: jax.Array, projections: jax.Array) -> Queue:
    """The queue with a batch's features [n E] in front, without its oldest batch; gradients are stopped."""

    def shifted(kept, new):
        return jnp.concatenate([lax.stop_gradient(new).astype(jnp.float32)[None], kept[:-1]])

    sides = {side: shifted(queue[side], new) for side, new in zip(SIDES, (predictions, projections), strict=True)}
    return sides | {"seen": queue["seen"] + 1}
