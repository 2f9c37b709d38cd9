"""All settings of the clustering protocols; `decisions` lists those that the published material leaves open.

Caption of the paper's table (Salehi et al. 2024): TimeT's protocol, 16 frames of DAVIS, 4 of YouTube-VOS; clustering
with as many clusters as the clip has objects and Hungarian matching; overclustering with 10 and greedy matching.
"""

import dataclasses

from sigma_jax.evals.segmentation import frames, matching
from sigma_jax.evals.segmentation.kmeans import KmeansSettings
from sigma_jax.runtime.errors import InvalidValue

PROTOCOLS = ("clustering", "overclustering")


@dataclasses.dataclass(frozen=True)
class ClusteringSettings:
    """Settings of clustering and overclustering.

    Attributes:
      num_frames: F of a clip.
      image_size: side of the resized frames and masks, pixels.
      draw: how frames are drawn, 'random' or 'linspace'.
      seeds: of the random draws; the score is the mean over them. 'linspace' uses one.
      time: how token steps are aligned with frames: 'repeat' a step for its frames, score only the first frame of each
        step ('even'), or interpolate ('linear').
      final_norm: whether features are taken after the encoder's final norm.
      timet_std: whether red is standardised with TimeT's .228 instead of .229.
      statistics: whether standardisation and PCA use a 'batch' of clips or one 'clip'.
      batch_size: clips of a batch, in the order of their names.
      dims: of the PCA.
      kmeans: of every clip.
      num_clusters: of overclustering.
      greedy: criterion of the matching in overclustering, 'precision' or 'iou'.
      upsampled: 'features' before clustering, or 'labels' after it.
      void: how the mask value 255 is treated (frames.read_clip).
      categories: how instances are mapped to classes, in sets that have classes (frames.map_instances).
      average: over clips, 'plain' or 'timet' (matching.average); both are in every result.
    """

    num_frames: int = 16
    image_size: int = 224
    draw: str = "random"
    seeds: tuple[int, ...] = (0, 1, 2)
    time: str = "repeat"
    final_norm: bool = True
    timet_std: bool = False
    statistics: str = "batch"
    batch_size: int = 16
    dims: int = 50
    kmeans: KmeansSettings = KmeansSettings()
    num_clusters: int = 10
    greedy: str = "precision"
    upsampled: str = "features"
    void: str = "class"
    categories: str = "lookup"
    average: str = "plain"

    def __post_init__(self):
        choices = {
            "draw": frames.DRAWS,
            "time": ("repeat", "even", "linear"),
            "statistics": ("batch", "clip"),
            "greedy": ("precision", "iou"),
            "upsampled": ("features", "labels"),
            "void": frames.VOIDS,
            "categories": frames.CATEGORIES,
            "average": matching.AVERAGES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InvalidValue(f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}")
        for name in ("num_frames", "image_size", "batch_size", "dims", "num_clusters"):
            if getattr(self, name) < 1:
                raise InvalidValue(f"{name}={getattr(self, name)}: expected at least 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InvalidValue(f"seeds={self.seeds}: expected one or more, each once")
        if self.draw == "linspace" and len(self.seeds) > 1:
            object.__setattr__(self, "seeds", self.seeds[:1])  # every seed would draw the same frames

    @property
    def decisions(self) -> dict[str, str]:
        """The choices in points that the published material leaves open, for result.json."""
        return {
            "draw": f"frames drawn {self.draw}, seeds {list(self.seeds)}; published: random, seeds unknown",
            "time": f"token steps to frames: {self.time}; not published for video models",
            "final_norm": f"features after the final norm: {self.final_norm}; not published for video models",
            "timet_std": f"standard deviation of red {'.228 (TimeT)' if self.timet_std else '.229 (as trained)'}",
            "statistics": f"standardisation and PCA per {self.statistics} (a batch: {self.batch_size} clips by name)",
            "dims": f"PCA to {self.dims} dimensions, or to the features' width where that is less",
            "upsampled": f"{self.upsampled} are enlarged; published code: features",
            "greedy": f"overclustering matched by {self.greedy}; published: precision",
            "void": f"mask value 255 is treated as: {self.void}; published code: a class",
            "categories": f"instances become classes by {self.categories}; 'timet' repeats a fault of the public code",
            "average": f"{self.average} mean over clips; 'timet' is the mean of batch means",
        }
