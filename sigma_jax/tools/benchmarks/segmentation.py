"""Mode `segmentation`: everything after the features of clustering, for a batch of clips: PCA, k-means, matching.

The features are random, of the size of a ViT-B's on 16 frames of 224 x 224. A peer for --vs= makes its own of this size
and prints a line of JSON with median_s (seconds per clip) and peak_rss_mb.

Letters: t h w token grid, D width.
"""

from typing import Any

import numpy as np
from absl import flags

from sigma_jax.evals.segmentation.benchmark import score_batch
from sigma_jax.evals.segmentation.frames import Clip
from sigma_jax.evals.segmentation.settings import ClusteringSettings
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS

flags.DEFINE_integer("clips", 16, "Of the batch that shares its statistics.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("clusters", 10, "Of k-means.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("side", 224, "Of a frame, pixels; a token is 16 x 16.", lower_bound=16, flag_values=OPTIONS)
flags.DEFINE_integer("width", 768, "Of the features.", lower_bound=1, flag_values=OPTIONS)

FRAMES, STEP, PATCH = 16, 2, 16


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row of --clips clips; `overrides` must be empty. Seconds are per clip."""
    if overrides:
        raise InvalidValue(f"segmentation takes no --config values, got {overrides}")
    rng, side, grid = np.random.default_rng(0), OPTIONS.side, OPTIONS.side // PATCH
    shape = (OPTIONS.clips, FRAMES // STEP, grid, grid, OPTIONS.width)
    tokens = list(rng.standard_normal(shape, np.float32))
    labels = rng.integers(0, 4, (FRAMES, side, side)).astype(np.int16)
    video = np.zeros((FRAMES, side, side, 3), np.uint8)
    clips = [Clip(f"clip{i}", video, labels, np.arange(FRAMES)) for i in range(OPTIONS.clips)]
    settings = ClusteringSettings(image_size=side, num_clusters=OPTIONS.clusters)
    before = timing.memory()["peak_rss_mb"]

    def score() -> list[float]:
        return [entry.match.miou for (entry,) in score_batch(clips, tokens, ("overclustering",), settings)]

    found = timing.time_calls(score)
    per_clip = {name: found[name] / OPTIONS.clips for name in ("median_s", "p10_s", "p90_s", "cpu_s")}
    after = timing.memory()
    return {
        "mode": "segmentation",
        "shape": list(shape),
        "batch": OPTIONS.clips,
        **per_clip,
        "repeats": found["repeats"],
        "clips_per_s": 1 / per_clip["median_s"],
        "features_mb": sum(array.nbytes for array in tokens) / 2**20,
        "added_rss_mb": after["peak_rss_mb"] - before,
        "mfu": None,
        **timing.machine(),
        **after,
    }
