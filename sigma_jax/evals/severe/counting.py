"""Counts the cycles of a clip: scale search in its middle, then 32 windows refined along a binary tree.

Inference of Zhang et al. 2020 as in SEVERE's repetition counting. The published code calls its network once per window;
windows of one stage do not see each other, so all of them go through it at once here.

Letters: L frames of the clip, n windows, F frames that the network sees, A anchors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sigma_jax.models.repetition import Heads
from sigma_jax.ops.repetition_windows import MIN_HALF, UNIT_ANCHOR, best_factor, move, window_frames
from sigma_jax.runtime.errors import InvalidValue

NUM_SCALES = 30
SHORTEST, LONGEST = 0.03, 0.35  # half windows of the scale search, of the clip's length
NUM_POSITIONS = 32
PASSES = (4, 2, 1, 1)  # of the levels of the tree
BOX_LIMIT = 0.5  # corrections are cut to exp(+-0.5)
NUM_REFINEMENTS = 4  # of the period that the scale search finds
MIN_CYCLES = 2  # a period of half a clip or more cannot be counted


Network = Callable[[np.ndarray], Heads]  # frame numbers int [n F], some outside the clip -> Heads


@dataclass(frozen=True)
class Count:
    """The count of one clip and what it was made of. Edges are int [32], the windows around each position."""

    count: float
    initial_period: int
    left_edges: np.ndarray
    right_edges: np.ndarray


def count_cycles(network: Network, length: int, num_frames: int = 32) -> Count:
    """Counts the cycles in a clip of `length` frames; at most 75 windows in 13 calls of the network.

    Args:
      network: looks at windows, given as numbers of frames; those below 0 and from `length` on lie outside the clip.
      length: L, at least 1.
      num_frames: F, that the network sees of a window.
    """
    if length < 1:
        raise InvalidValue(f"a clip of {length} frames: expected at least one")

    def look(state: np.ndarray) -> Heads:
        return network(window_frames(state, num_frames))

    period = _search_period(look, length)
    middles = ((np.arange(NUM_POSITIONS) + 0.5) * (length / (NUM_POSITIONS + 1))).astype(np.int64)
    left, right = _refine_edges(look, middles, period, length)
    return Count(_count(length, middles, left, right, period), period, left, right)


def scales(length: float) -> np.ndarray:
    """Half windows of the scale search, geometric from 3 to 35 per cent of the clip, [30]."""
    return length * SHORTEST * (LONGEST / SHORTEST) ** (np.arange(NUM_SCALES) / (NUM_SCALES - 1))


def _search_period(look: Callable[[np.ndarray], Heads], length: int) -> int:
    """The period in the middle of the clip, in frames; 0 where no scale gives one."""

    def periods(halves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        middle = np.full(len(halves), length / 2)
        heads = look(np.stack([middle - halves, middle, middle + halves + 1], axis=1))
        margin = heads.left_logits[:, 1, UNIT_ANCHOR] - heads.left_logits[:, 0, UNIT_ANCHOR]
        found = halves * np.exp(np.clip(heads.left_boxes[:, UNIT_ANCHOR].astype(np.float64), -BOX_LIMIT, BOX_LIMIT))
        return found, np.where(_is_period(found, length), margin, -np.inf)

    found, scores = periods(scales(length))
    best = int(np.argmax(scores))  # the first of equals
    if not np.isfinite(scores[best]):
        return 0
    period = int(found[best])
    for _ in range(NUM_REFINEMENTS):
        better = periods(np.array([float(period)]))[0][0]
        if _is_period(better, length):
            period = round((period + better) / 2)
    return period


def _is_period(period: np.ndarray, length: int) -> np.ndarray:
    return (period >= MIN_HALF) & (period < length / MIN_CYCLES)


def _refine_edges(
    look: Callable[[np.ndarray], Heads], middles: np.ndarray, period: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edges int [32] of the windows around `middles`, from one period for all.

    Level l of the tree looks at 2^l nodes. What a node finds is passed on to the positions before it (their `after`
    copy) and from it on (their `before` copy); a position's edges are the mean of the two. At level 3 the other copy
    keeps what level 2 wrote, except at both ends of the clip, as published.
    """
    edges = np.stack([middles - period, middles + period + 1], axis=1)
    before, after = edges.copy(), edges.copy()
    for level, passes in enumerate(PASSES, 1):
        reach = NUM_POSITIONS // 2 ** (level + 1)
        nodes = np.arange(reach, NUM_POSITIONS, 2 * reach)
        found = _look_at_nodes(look, middles[nodes], np.rint((before[nodes] + after[nodes]) / 2), passes, length)
        for node, result in zip(nodes, found, strict=True):
            offsets = result - middles[node]
            sides = (
                (slice(node - reach, node), after, before, node == nodes[0]),
                (slice(node, node + reach), before, after, node == nodes[-1]),
            )
            for places, own, other, is_end in sides:
                moved = np.trunc(middles[places, None] + offsets).astype(np.int64)
                own[places] = moved
                if level != 3 or is_end:
                    other[places] = moved
    mean = np.rint((before + after) / 2).astype(np.int64)
    return mean[:, 0], mean[:, 1]


def _look_at_nodes(
    look: Callable[[np.ndarray], Heads], middles: np.ndarray, edges: np.ndarray, passes: int, length: int
) -> np.ndarray:
    """Edges [n 2] of nodes after some passes, the last not rounded."""
    for number in range(passes):
        loaded = np.rint(edges) if number else edges
        state = np.stack([loaded[:, 0], middles, loaded[:, 1]], axis=1)
        heads = look(state)
        factors = [
            best_factor(heads.left_logits, heads.left_boxes, BOX_LIMIT),
            best_factor(heads.right_logits, heads.right_boxes, BOX_LIMIT),
        ]
        zero, longest = np.zeros(len(middles)), np.full(len(middles), length / MIN_CYCLES)
        moved, failed = move(state, np.stack(factors, axis=1), zero, longest)
        moved = np.where(failed[:, None], state, moved)
        edges = (moved[:, [0, 2]] + loaded) / 2
    return edges


def _count(length: int, middles: np.ndarray, left: np.ndarray, right: np.ndarray, period: int) -> float:
    """From the windows that lie in the clip with all their context; without any, from the first period."""
    before, after = middles - left + 1, right - middles
    inside = (left - before >= 0) & (right + after < length)
    if not inside.any():
        return float(round(length / (period + 1)))
    return count_from_halves(length, before[inside], after[inside])


def count_from_halves(length: int, before: np.ndarray, after: np.ndarray) -> float:
    """Cycles in `length` frames, given the left and right halves of windows: rates are averaged, not periods."""
    return float(round(length * (np.mean(1 / np.asarray(before)) + np.mean(1 / np.asarray(after))) / 2))
