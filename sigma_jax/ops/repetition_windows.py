"""Windows of two cycles: which frames the counting network sees, what it should say, and how a window moves.

A window has a left edge, a middle and a right edge. Its left half ends at the middle, its right half starts one frame
later; each half should be one cycle long. The network sees each side with as much context again. After Zhang et al.
2020 (Context-aware and Scale-insensitive Temporal Repetition Counting), as used by SEVERE (Thoker et al. 2022). All
functions take NumPy or JAX arrays; frame numbers count from 0.

Letters: B windows, F frames that the network sees, A anchors.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.ops.ignored import IGNORED  # an offset that is not known, an anchor without a target

Array: TypeAlias = np.ndarray | jax.Array

ANCHORS = (0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0)  # lengths of a cycle that are tried, in lengths of the half
UNIT_ANCHOR = ANCHORS.index(1.0)
MIN_HALF = 4  # frames
POSITIVE_IOU = 0.5


def _library(*arrays: Array):
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def half_lengths(state: Array) -> tuple[Array, Array]:
    """Frames of the left and the right half, each [B], of windows [B 3]."""
    return state[:, 1] - state[:, 0] + 1, state[:, 2] - state[:, 1]


def window_frames(state: Array, num_frames: int) -> Array:
    """Frame numbers int [B F] of windows [B 3]: F/2 spread over each side, which is twice as long as its half.

    They may lie outside the clip. Half a frame beyond both ends of a side is spread evenly and rounded to even, then
    limited to the side; integers throughout, so that every device rounds alike.
    """
    left, _ = half_lengths(state)
    start = _truncate(state[:, 0] - left)
    middle = _truncate(state[:, 1])
    end = _truncate(2 * state[:, 2] - middle)
    each = num_frames // 2
    sides = [_spread(start, middle, each), _spread(middle + 1, end, each)]
    return _library(state).concatenate(sides, axis=1)


def _truncate(values: Array) -> Array:
    library = _library(values)
    return library.trunc(values).astype(np.int32 if library is jnp else np.int64)


def _spread(first: Array, last: Array, count: int) -> Array:
    """round(first - 1/2 + j (last - first + 1) / (count - 1)) for j = 0 .. count - 1, [B count]."""
    first, last = first[:, None], last[:, None]
    steps = np.arange(count)
    denominator = 2 * (count - 1)
    numerator = (count - 1) * (2 * first - 1) + 2 * steps * (last - first + 1)
    whole, twice = numerator // denominator, 2 * (numerator % denominator)
    rounds_up = (twice > denominator) | ((twice == denominator) & (whole % 2 == 1))
    return _library(first).clip(whole + rounds_up, first, last)


def anchor_targets(offsets: Array, halves: Array) -> tuple[Array, Array]:
    """What the heads of one side should say.

    Args:
      offsets: frames from one end of the half to the same phase one cycle away, less one; [B], IGNORED where unknown.
      halves: lengths of that half, [B].

    Returns:
      classes int [B A]: 1 where the anchor overlaps the true cycle by half or more, 0 elsewhere, IGNORED where unknown.
      boxes [B A]: log of true over anchor length; 0 where the class is not 1.
    """
    library = _library(offsets, halves)
    anchors = np.asarray(ANCHORS, np.float32 if library is jnp else np.float64) * halves[:, None]
    true = library.maximum(offsets[:, None] + 1, 1)  # a number also where it is not known
    overlap = library.minimum(true, anchors) / library.maximum(true, anchors)
    known = offsets[:, None] != IGNORED
    classes = library.where(known, (overlap >= POSITIVE_IOU).astype(np.int32), IGNORED)
    return classes, library.where(classes == 1, library.log(true / anchors), 0.0)


def best_factor(logits: Array, boxes: Array, limit: float) -> Array:
    """By what the half should be multiplied: the most probable anchor times its correction.

    Args:
      logits: [B 2 A], second row: the anchor is a cycle.
      boxes: [B A], log of the correction, cut to +-limit.
    """
    library = _library(logits, boxes)
    margin = logits[:, 1] - logits[:, 0]
    best = library.argmax(margin, axis=-1)[:, None]
    box = library.take_along_axis(library.clip(boxes, -limit, limit), best, axis=-1)
    return library.take_along_axis(library.asarray(ANCHORS)[None], best, axis=-1)[:, 0] * library.exp(box[:, 0])


def move(state: Array, factors: Array, shift: Array, longest: Array | None = None) -> tuple[Array, Array]:
    """The window after one step.

    Args:
      state: [B 3].
      factors: of the left and the right half, [B 2].
      shift: of the middle, [B].
      longest: limits halves to MIN_HALF .. longest ([B]); None: no limit.

    Returns:
      (state [B 3], failed [B]: a half is shorter than MIN_HALF).
    """
    library = _library(state, factors)
    left, right = half_lengths(state)
    left, right = left * factors[:, 0], right * factors[:, 1]
    if longest is not None:
        left, right = library.clip(left, MIN_HALF, longest), library.clip(right, MIN_HALF, longest)
    middle = _truncate(state[:, 1] + shift)
    low, high = _truncate(middle - left + 1), _truncate(middle + right)
    failed = (middle - low + 1 < MIN_HALF) | (high - middle < MIN_HALF)
    return library.stack([low, middle, high], axis=1), failed
