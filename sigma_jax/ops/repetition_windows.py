"""Windows of two cycles for repetition counting: the network's input frames, its targets, and how a window moves.

A window (`state`, [B 3]) is a left edge, a middle and a right edge, in frames counted from 0. Its left half ends at the
middle, its right half starts one frame later; the network corrects the window until each half is one cycle long. As
context it sees, beside each half, as many frames again outside the window. After Zhang et al. 2020 (Context-aware and
Scale-insensitive Temporal Repetition Counting), as used by SEVERE (Thoker et al. 2022). All functions take NumPy or JAX
arrays.

Letters: B windows, F frames that the network sees, A anchors.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.ops.ignored import IGNORED  # an offset that is not known, an anchor without a target

Array: TypeAlias = np.ndarray | jax.Array

ANCHORS = (0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0)  # candidate lengths of a cycle, in units of the half's length
UNIT_ANCHOR = ANCHORS.index(1.0)
MIN_HALF = 4  # frames; a window with a shorter half has failed
POSITIVE_IOU = 0.5  # temporal overlap with the true cycle from which an anchor is a positive example


def _library(*arrays: Array):
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def half_lengths(state: Array) -> tuple[Array, Array]:
    """Frames of the left and the right half, each [B], of windows [B 3]."""
    return state[:, 1] - state[:, 0] + 1, state[:, 2] - state[:, 1]


def window_frames(state: Array, num_frames: int) -> Array:
    """Frame numbers int [B F] that the network sees of windows [B 3]; they may lie outside the clip.

    F/2 frames are sampled from each side, which is twice as long as its half. The sampling positions are equally spaced
    from half a frame before the side to half a frame after it, rounded half to even, and clipped to the side. All of it
    is integer arithmetic, so that every device rounds alike.
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
    """Training targets of one side's two heads, which classify anchors and regress their lengths.

    Args:
      offsets: [B], one less than the distance in frames from an end of the half to the same phase of the neighbouring
        cycle; IGNORED where unknown.
      halves: [B], lengths of that half in frames.

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
    """Factors [B] by which the halves' lengths should be multiplied: the most probable anchor times its correction.

    Args:
      logits: [B 2 A], of the classes "no cycle" and "cycle" for each anchor.
      boxes: [B A], log of the correction.
      limit: corrections are clipped to -limit .. limit.
    """
    library = _library(logits, boxes)
    margin = logits[:, 1] - logits[:, 0]
    best = library.argmax(margin, axis=-1)[:, None]
    box = library.take_along_axis(library.clip(boxes, -limit, limit), best, axis=-1)
    return library.take_along_axis(library.asarray(ANCHORS)[None], best, axis=-1)[:, 0] * library.exp(box[:, 0])


def move(state: Array, factors: Array, shift: Array, longest: Array | None = None) -> tuple[Array, Array]:
    """The windows after one correction.

    Args:
      state: [B 3].
      factors: [B 2], by which the left and the right half are multiplied.
      shift: [B], frames by which the middle moves.
      longest: [B], clips the halves to MIN_HALF .. longest frames; None: no clipping.

    Returns:
      (state [B 3], failed [B]); a window has failed where a half is shorter than MIN_HALF.
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
