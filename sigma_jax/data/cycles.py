"""Cycles of a repeated motion: from their boundaries to offsets between equal phases, intervals and initial windows.

After UCFRep (Zhang et al. 2020). Boundaries b_0 < b_1 < ... < b_c are numbers of frames; the video shows c cycles from
b_0 to b_c. The frame at a boundary belongs to the cycle that starts there, and frame b_c to the last cycle.
"""

import itertools
from typing import NamedTuple

import numpy as np

from sigma_jax.ops.ignored import IGNORED

MIN_CYCLES = 2
MAX_FRAMES = 300  # of a training interval
NUM_INTERVALS = 10  # per video, drawn once
_SMALL_CHANGE, _LARGE_RATIO = 2, 1.3  # neighbouring cycles that differ by more frames and a larger ratio have no offset


class Interval(NamedTuple):
    """Frames first .. last (both included) of a video, and their stored number of cycles (see draw_interval)."""

    first: int
    last: int
    count: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


def check_boundaries(boundaries: np.ndarray, num_frames: int | None = None) -> None:
    """Raises ValueError, saying what is wrong, unless these are the boundaries of two cycles or more in a video."""
    values = np.asarray(boundaries)
    if len(values) < MIN_CYCLES + 1:
        raise ValueError(
            f"{max(len(values) - 1, 0)} cycles between {len(values)} boundaries: expected at least {MIN_CYCLES} cycles"
        )
    if values[0] < 0:
        raise ValueError(f"the first boundary is before the first frame: {values[0]}")
    for earlier, later in itertools.pairwise(values.tolist()):
        if later <= earlier:
            raise ValueError(f"boundaries out of order: {later} follows {earlier}")
    if num_frames is not None and values[-1] >= num_frames:
        raise ValueError(
            f"the video is shorter than its annotation: {num_frames} frames, the last boundary is frame {values[-1]}, "
            "counted from 0"
        )


def phase_offsets(boundaries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances in frames to the same phase of the next and of the previous cycle, for each frame b_0 .. b_c.

    The phase grows linearly within a cycle. A distance is IGNORED where there is no such cycle, or where the two cycles
    differ by more than 2 frames and by more than a ratio of 1.3. Half frames are rounded up, as in the released
    annotations.

    Returns:
      (to the next cycle, to the previous one), each int [b_c - b_0 + 1].
    """
    bounds = np.asarray(boundaries, np.int64)
    frames = np.arange(bounds[0], bounds[-1] + 1)
    cycle = np.minimum(np.searchsorted(bounds, frames, side="right") - 1, len(bounds) - 2)
    lengths = np.diff(bounds)
    own, into = lengths[cycle], frames - bounds[cycle]

    following = np.minimum(cycle + 1, len(lengths) - 1)
    ahead = bounds[cycle + 1] - frames + (2 * into * lengths[following] + own) // (2 * own)
    has_next = (cycle + 1 < len(lengths)) & ~_differ(own, lengths[following])

    preceding = np.maximum(cycle - 1, 0)
    behind = frames - bounds[preceding] + (own - 2 * into * lengths[preceding]) // (2 * own)
    has_previous = (cycle > 0) & ~_differ(own, lengths[preceding])
    return np.where(has_next, ahead, IGNORED), np.where(has_previous, behind, IGNORED)


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    long, short = np.maximum(a, b), np.minimum(a, b)
    return (long - short > _SMALL_CHANGE) & (long > _LARGE_RATIO * short)


def draw_interval(boundaries: np.ndarray, rng: np.random.Generator) -> Interval:
    """Draws a training interval of at least two cycles and at most MAX_FRAMES frames, which starts and ends in cycles.

    The stored count follows the published code: it counts the drawn boundaries, which is one too many for the whole
    video, and is not corrected where the interval is cut to MAX_FRAMES. Only the lengths of initial windows depend on
    it.
    """
    bounds = np.asarray(boundaries, np.int64)
    cycles = len(bounds) - 1
    i = int(rng.integers(0, cycles - 1))  # 0 .. c - 2
    j = int(rng.integers(i + 2, cycles + 2))  # i + 2 .. c + 1
    first = int(bounds[0]) if i == 0 else int(rng.integers(bounds[i - 1], bounds[i] + 1))
    last = int(bounds[-1]) if j == cycles + 1 else int(rng.integers(bounds[j - 1], bounds[j] + 1))
    return Interval(first, min(last, first + MAX_FRAMES - 1), j - i)


def draw_window(interval: Interval, next_offset: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Draws an initial window (left edge, middle, right edge) of a training interval, in frames from its start.

    The length of a half is, for a quarter of the windows, the true period times 2^U(-1, 1); for a quarter, the true
    period times 1/2, 1 or 2 plus a uniform number in +-0.05; for half of them, one of the initial scales of a test
    (evals/severe/counting.py). Windows that end outside the interval are drawn again.

    Args:
      next_offset: phase offset of the interval's first frame; where it is IGNORED the mean period is taken.
    """
    length = interval.length
    period = next_offset if next_offset != IGNORED else length / interval.count
    while True:
        left = int(rng.random() * period)
        kind = rng.random()
        if kind < 0.25:
            half = period * 2.0 ** rng.uniform(-1, 1)
        elif kind < 0.5:
            half = period * (2.0 ** rng.integers(-1, 2) + rng.uniform(-0.05, 0.05))
        else:
            half = length * 0.03 * (35 / 3) ** (rng.integers(0, 31) / 29)
        middle = max(left, left + int(half - 1))
        if middle >= length:
            left, middle = 0, int(length / interval.count - 1)
        if 2 * middle + 1 >= length:
            left, middle = 0, int(length / 2 - 1)
        right = 2 * middle - left + 1
        if 0 < right < length:
            return left, middle, right
