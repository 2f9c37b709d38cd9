"""Mode `segmentation`: everything after the features of clustering: PCA, k-means, matching.

The features are made up, of the size of a ViT-B's on 16 frames of 224 x 224 (`segmentation_clips.py`). --vs=faiss
measures a program of PyTorch and faiss on the same clips in turn (`peer_segmentation.py`). A repetition is a pass over
all clips (default 2).
"""

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
from absl import flags

from sigma_jax.evals.segmentation.benchmark import score_batch
from sigma_jax.evals.segmentation.frames import Clip
from sigma_jax.evals.segmentation.settings import PROTOCOLS, ClusteringSettings
from sigma_jax.runtime.errors import InvalidValue, NotThere
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS
from sigma_jax.tools.benchmarks.segmentation_clips import FRAMES, PATCH, BenchSpec, measure_batches

_DEFAULT = BenchSpec()
flags.DEFINE_integer("clips", _DEFAULT.clips, "Number of clips, in batches of 16.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer(
    "clusters", _DEFAULT.num_clusters, "Clusters of k-means (overclustering).", lower_bound=1, flag_values=OPTIONS
)
flags.DEFINE_integer(
    "side", _DEFAULT.side, "Side of a frame in pixels; a token is 16 x 16.", lower_bound=16, flag_values=OPTIONS
)
flags.DEFINE_integer("width", _DEFAULT.width, "Width of the features.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_enum("protocol", _DEFAULT.protocol, PROTOCOLS, "Protocol to measure.", flag_values=OPTIONS)
flags.DEFINE_string(
    "peer_python", sys.executable, "Interpreter that has PyTorch and faiss (--vs=faiss).", flag_values=OPTIONS
)


def spec() -> BenchSpec:
    """What the flags say."""
    if OPTIONS.side % PATCH:
        raise InvalidValue(f"--side={OPTIONS.side}: expected a multiple of {PATCH}")
    repeats = OPTIONS.repeats if OPTIONS["repeats"].present else _DEFAULT.repeats
    return BenchSpec(OPTIONS.protocol, OPTIONS.clips, OPTIONS.clusters, OPTIONS.side, OPTIONS.width, repeats)


def peer_command(name: str) -> list[str] | None:
    """The command of the peer that --vs names; None where it names none.

    Raises:
      NotThere: the interpreter has no PyTorch or no faiss.
    """
    if name != "faiss":
        return None
    probe = [OPTIONS.peer_python, "-c", "import torch, faiss, scipy"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotThere(
            f"--vs=faiss: {OPTIONS.peer_python} cannot run the peer ({why}): pip install torch faiss-cpu there, or "
            "name another interpreter with --peer_python"
        )
    sizes = [f"--{field}={value}" for field, value in dataclasses.asdict(spec()).items()]
    return [OPTIONS.peer_python, "-m", "sigma_jax.tools.benchmarks.peer_segmentation", *sizes]


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row of --clips clips; `overrides` must be empty. Seconds are per clip."""
    if overrides:
        raise InvalidValue(f"segmentation takes no --config values, got {overrides}")
    asked = spec()
    settings = ClusteringSettings(image_size=asked.side, num_clusters=asked.num_clusters)
    video = np.zeros((FRAMES, asked.side, asked.side, 3), np.uint8)

    def score(tokens: list[np.ndarray], labels: list[np.ndarray]) -> list[float]:
        clips = [Clip(f"clip{i}", video, truth, np.arange(FRAMES)) for i, truth in enumerate(labels)]
        return [entry.match.miou for (entry,) in score_batch(clips, tokens, (asked.protocol,), settings)]

    return measure_batches(asked, score) | {"mfu": None, **timing.machine()}
