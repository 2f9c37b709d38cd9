"""Synthetic clips and features for the benchmark of clustering, and its timing; needs only NumPy.

Ours (`segmentation.py`) and the peer (`peer_segmentation.py`) take both from here: they see the same numbers and are
timed alike.

Letters: t h w token grid, D width, F frames, y x pixels.
"""

import dataclasses
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

FRAMES, STEP, PATCH = 16, 2, 16  # frames of a clip, frames of a token step, side of a token in pixels
BATCH = 16  # clips that share their statistics
FACTORS = 32  # directions in which features vary beside their objects


@dataclasses.dataclass(frozen=True)
class BenchSpec:
    """How many clips of what size, and how often they are clustered.

    Attributes:
      protocol: 'clustering' (as many clusters as objects, one to one) or 'overclustering' (num_clusters, greedy).
      num_clusters: of overclustering.
      side: of a frame in pixels, a multiple of 16.
      width: D.
      repeats: passes over all clips that are timed; two clips are clustered before them.
    """

    protocol: str = "overclustering"
    clips: int = 30
    num_clusters: int = 10
    side: int = 224
    width: int = 768
    repeats: int = 2

    @property
    def token_shape(self) -> tuple[int, int, int, int]:
        """[t h w D] of a clip."""
        return FRAMES // STEP, self.side // PATCH, self.side // PATCH, self.width

    def batches(self) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
        """(features float32 [t h w D] of each clip, labels int16 [F y x] of each) of at most BATCH clips at a time."""
        for low in range(0, self.clips, BATCH):
            pairs = [make_clip(number, self) for number in range(low, min(low + BATCH, self.clips))]
            yield [tokens for tokens, _ in pairs], [labels for _, labels in pairs]
            del pairs  # one batch at a time


def make_clip(number: int, spec: BenchSpec) -> tuple[np.ndarray, np.ndarray]:
    """(features float32 [t h w D], labels int16 [F y x]): two to five boxes that move over a background.

    A token has the vector of the object at its centre, and noise: most of it in a few directions, as in real features.
    """
    rng = np.random.default_rng(number)
    labels = np.zeros((FRAMES, spec.side, spec.side), np.int16)
    for label in range(1, rng.integers(3, 7)):
        height, width = rng.integers(spec.side // 6, spec.side // 2, size=2)
        (top, left), speed = rng.integers(0, spec.side // 2, size=2), rng.integers(-3, 4, size=2)
        for frame in range(FRAMES):
            y, x = np.maximum((top, left) + frame * speed, 0)
            labels[frame, y : y + height, x : x + width] = label
    centres = labels[::STEP, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
    vectors = rng.standard_normal((7, spec.width), np.float32)
    factors = (
        rng.standard_normal((FACTORS, spec.width), np.float32) / np.arange(1, FACTORS + 1, dtype=np.float32)[:, None]
    )
    noise = rng.standard_normal((*centres.shape, FACTORS), np.float32) @ factors
    return vectors[centres] + noise + rng.standard_normal(noise.shape, np.float32), labels


def measure_batches(
    spec: BenchSpec, score: Callable[[list[np.ndarray], list[np.ndarray]], list[float]]
) -> dict[str, Any]:
    """Wall clock and processor seconds per clip of `score` (features, labels of a batch -> mIoU of each clip).

    Making the clips is not timed. A repetition is a pass over all clips.

    Returns:
      median_s, p10_s, p90_s, cpu_s (all threads), clips_per_s, all per clip; repeats; miou (per cent, the mean);
      peak_rss_mb of the process, and added_rss_mb, by how much it grew.
    """
    before = _peak_rss_mb()
    score(*(part[:2] for part in next(spec.batches())))
    walls, processors, scores = [], [], []
    for _ in range(spec.repeats):
        wall, processor, scores = 0.0, 0.0, []
        for batch in spec.batches():
            start = time.perf_counter(), time.process_time()
            scores += score(*batch)
            wall, processor = wall + time.perf_counter() - start[0], processor + time.process_time() - start[1]
            del batch  # before the next one is made
        walls.append(wall / spec.clips)
        processors.append(processor / spec.clips)
    low, median, high = np.quantile(walls, [0.1, 0.5, 0.9]).tolist()
    return {
        "mode": "segmentation",
        "protocol": spec.protocol,
        "shape": [spec.clips, *spec.token_shape],
        "batch": min(BATCH, spec.clips),
        "median_s": median,
        "p10_s": low,
        "p90_s": high,
        "cpu_s": float(np.median(processors)),
        "repeats": spec.repeats,
        "clips_per_s": 1 / median,
        "miou": 100 * float(np.mean(scores)),
        "added_rss_mb": _peak_rss_mb() - before,
        "peak_rss_mb": _peak_rss_mb(),
    }


def _peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
