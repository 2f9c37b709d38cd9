"""Counts the cycles of a clip: a scale search in its middle, then 32 windows that are refined along a binary tree.

Inference of Zhang et al. 2020, as in SEVERE's repetition counting. The published code calls its network once per
window; the windows of one stage are independent, so here they are one batch.

Letters: L frames of the clip, n windows, F input frames of the network, A anchors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sigma_jax.models.repetition import Heads
from sigma_jax.ops.repetition_windows import MIN_HALF, UNIT_ANCHOR, best_factor, move, window_frames
from sigma_jax.runtime.errors import InvalidValue

NUM_SCALES = 30
SHORTEST, LONGEST = 0.03, 0.35  # lengths of half windows in the scale search, relative to the clip
NUM_POSITIONS = 32
PASSES = (4, 2, 1, 1)  # number of refinements on each level of the tree
BOX_LIMIT = 0.5  # corrections are clipped to factors of exp(-0.5) .. exp(0.5)
NUM_REFINEMENTS = 4  # of the period that the scale search finds
MIN_CYCLES = 2  # periods of half a clip or more are not counted


Network = Callable[[np.ndarray], Heads]  # frame numbers int [n F], some outside the clip -> Heads


@dataclass(frozen=True)
class Count:
    """The count of one clip.

    Attributes:
      count: number of cycles.
      initial_period: that the scale search found, frames; 0: none.
      left_edges, right_edges: int [32], of the windows around each position.
    """

    count: float
    initial_period: int
    left_edges: np.ndarray
    right_edges: np.ndarray


def count_cycles(network: Network, length: int, num_frames: int = 32) -> Count:
    """Counts the cycles in a clip of `length` frames; at most 75 windows in 13 calls of the network, each window once.

    Args:
      network: returns outputs for windows, given as frame numbers; those below 0 and from `length` on lie outside.
      length: L, at least 1.
      num_frames: F.
    """
    if length < 1:
        raise InvalidValue(f"a clip of {length} frames: expected at least one")

    known = remembering(network, length)

    def look(state: np.ndarray) -> Heads:
        return known(window_frames(state, num_frames))

    period = _search_period(look, length)
    middles = ((np.arange(NUM_POSITIONS) + 0.5) * (length / (NUM_POSITIONS + 1))).astype(np.int64)
    left, right = _refine_edges(look, middles, period, length)
    return Count(_count(length, middles, left, right, period), period, left, right)


def remembering(network: Network, length: int) -> Network:
    """The same network, called once for each window: refinements that have converged ask for the same one again.

    Windows that differ only in which frames outside the clip they have are the same.
    """
    seen: dict[bytes, tuple[np.ndarray, ...]] = {}

    def look(frames: np.ndarray) -> Heads:
        names = [window.tobytes() for window in np.clip(frames, -1, length)]
        fresh = {name: place for place, name in reversed([*enumerate(names)]) if name not in seen}
        if fresh:
            rows = sorted(fresh.values())
            heads = network(frames[rows])
            seen.update((names[row], tuple(part[place] for part in heads)) for place, row in enumerate(rows))
        return Heads(*(np.stack(parts) for parts in zip(*(seen[name] for name in names), strict=True)))

    return look


def scales(length: float) -> np.ndarray:
    """Lengths [30] of half windows in the scale search, geometrically spaced from 3 to 35 per cent of the clip."""
    return length * SHORTEST * (LONGEST / SHORTEST) ** (np.arange(NUM_SCALES) / (NUM_SCALES - 1))


def _search_period(look: Callable[[np.ndarray], Heads], length: int) -> int:
    """The period in the middle of the clip, in frames; 0 if no scale finds one."""

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
    """Left and right edges int [32] of the windows around `middles`, refined from one period for all.

    Level l of the tree has 2^l nodes. The edges that a node finds are copied to the positions before it (into `after`)
    and to those from it on (into `before`); the edges of a position are the mean of its two copies. On the other levels
    both copies are written. As in the published code, level 3 writes one copy only, except at both ends of the clip.
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
    """Edges [n 2] of nodes after `passes` refinements, of which the last is not rounded."""
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
    """The count from the windows that lie in the clip with their context; without any, from the initial period."""
    before, after = middles - left + 1, right - middles
    inside = (left - before >= 0) & (right + after < length)
    if not inside.any():
        return float(round(length / (period + 1)))
    return count_from_halves(length, before[inside], after[inside])


def count_from_halves(length: int, before: np.ndarray, after: np.ndarray) -> float:
    """Number of cycles in `length` frames from the lengths of left and right halves, averaged as rates."""
    return float(round(length * (np.mean(1 / np.asarray(before)) + np.mean(1 / np.asarray(after))) / 2))
