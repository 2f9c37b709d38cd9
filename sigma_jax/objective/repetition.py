"""Loss of repetition counting, and the windows on which the network trains.

After Zhang et al. 2020 (as in SEVERE). A clip is used in several steps: after every step its window moves to the right
and takes the lengths that the network predicted; a window that fails or reaches the end of the clip is replaced by
another initial window. The released code trains on one batch of clips for up to eleven steps in a row. Here `lifetime`
groups of clips are kept in a ring on the devices, and each step one group is replaced by new clips, so that every step
has windows of all ages and only one group has to be transferred.

Letters: G groups, b clips in a group, B = G * b windows, T frames of a clip, A anchors.
"""

import jax
import jax.numpy as jnp
import optax

from sigma_jax.models.repetition import Heads
from sigma_jax.ops.ignored import IGNORED
from sigma_jax.ops.repetition_windows import anchor_targets, best_factor, half_lengths, move

BOX_WEIGHT = 50.0
BOX_LIMIT = 2.0  # in training, corrections of a half's length are clipped to factors of exp(-2) .. exp(2)
SHIFT = (5.0, 20.0)  # a window moves by its clip's length over U(5, 20)
Ring = dict[str, jax.Array]


def window_targets(state: jax.Array, next_offsets: jax.Array, previous_offsets: jax.Array):
    """(classes, boxes) of the left and of the right half, each [B A].

    Args:
      state: windows int [B 3]; the middle lies in the clip.
      next_offsets, previous_offsets: of every frame, int [B T] (data/cycles.py).
    """
    rows, middle = jnp.arange(len(state)), state[:, 1]
    left, right = half_lengths(state)
    before = previous_offsets.at[rows, middle].get(mode="fill", fill_value=IGNORED)
    after = next_offsets.at[rows, middle + 1].get(mode="fill", fill_value=IGNORED)
    return anchor_targets(before, left), anchor_targets(after, right)


def repetition_loss(heads: Heads, left_targets, right_targets) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of the anchors' classes plus 50 times the smooth L1 loss of their boxes, summed over both halves.

    As in the released code the cross-entropy is a mean over anchors whose target is not IGNORED, and the smooth L1 loss
    a mean over all anchors, in which those that are no positive examples count as 0.

    Args:
      left_targets, right_targets: (classes, boxes), see window_targets.

    Returns:
      loss, {'loss_class', 'loss_box' (times 50)}.
    """
    class_loss = _class_loss(heads.left_logits, left_targets[0]) + _class_loss(heads.right_logits, right_targets[0])
    box_loss = _box_loss(heads.left_boxes, *left_targets) + _box_loss(heads.right_boxes, *right_targets)
    box_loss = BOX_WEIGHT * box_loss
    return class_loss + box_loss, {"loss_class": class_loss, "loss_box": box_loss}


def _class_loss(logits: jax.Array, classes: jax.Array) -> jax.Array:
    known = classes != IGNORED
    nll = optax.softmax_cross_entropy_with_integer_labels(
        jnp.moveaxis(logits.astype(jnp.float32), 1, -1), jnp.maximum(classes, 0)
    )
    return jnp.sum(jnp.where(known, nll, 0.0)) / jnp.maximum(jnp.sum(known), 1)


def _box_loss(boxes: jax.Array, classes: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(jnp.where(classes == 1, optax.huber_loss(boxes.astype(jnp.float32), targets), 0.0))


def next_windows(state: jax.Array, heads: Heads, length: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The windows of the next step, int [B 3], and which of them have ended, bool [B]: failed or beyond the clip."""
    shift = length / jax.random.uniform(key, length.shape, minval=SHIFT[0], maxval=SHIFT[1])
    factors = [
        best_factor(heads.left_logits, heads.left_boxes, BOX_LIMIT),
        best_factor(heads.right_logits, heads.right_boxes, BOX_LIMIT),
    ]
    moved, failed = move(state, jnp.stack(factors, axis=1), shift)
    return moved, failed | (moved[:, 1] >= length)


def empty_ring(lifetime: int, clips: int, num_frames: int, size: int, num_windows: int) -> Ring:
    """A ring for G = `lifetime` groups of b clips: pixels, offsets, initial windows, and current windows.

    A clip of length 0 is an entry that has not been filled yet.
    """
    shape = (lifetime, clips)
    return {
        "video": jnp.zeros((*shape, num_frames, size, size, 3), jnp.uint8),
        "offsets": jnp.full((*shape, 2, num_frames), IGNORED, jnp.int32),
        "windows": jnp.zeros((*shape, num_windows, 3), jnp.int32),
        "length": jnp.zeros(shape, jnp.int32),
        "state": jnp.zeros((*shape, 3), jnp.int32),
        "drawn": jnp.zeros(shape, jnp.int32),
    }


def replace_group(ring: Ring, clips: dict[str, jax.Array], turn: jax.Array) -> Ring:
    """The ring with its oldest group replaced by new clips, at their first initial windows.

    Args:
      turn: number of groups that were replaced before.
      clips: 'video' [b T s s 3], 'offsets' [b 2 T], 'windows' [b n 3], 'length' [b].
    """
    group = turn % ring["length"].shape[0]
    fresh = clips | {"state": clips["windows"][:, 0], "drawn": jnp.ones_like(clips["length"])}
    return {name: rows.at[group].set(fresh[name].astype(rows.dtype)) for name, rows in ring.items()}


def advance(ring: Ring, moved: jax.Array, is_over: jax.Array) -> Ring:
    """The ring with the windows of the next step; a window that has ended is replaced by the clip's next initial one.

    Args:
      moved: int [G b 3]; is_over: [G b].
    """
    drawn = ring["drawn"]
    number = (drawn % ring["windows"].shape[2])[..., None, None]
    again = jnp.take_along_axis(ring["windows"], number, axis=2)[..., 0, :]
    state = jnp.where(is_over[..., None], again, moved)
    return ring | {"state": state, "drawn": drawn + is_over}
