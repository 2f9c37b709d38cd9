"""Classification with several labels at once (Charades of SEVERE).

Letters: B clips, F frames, C classes.
"""

import dataclasses
from pathlib import Path
from typing import Self

import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sigma_jax.data.metadata import read_label_map
from sigma_jax.data.multi_label import MultiLabelSpec
from sigma_jax.datasets.specs import SPECS
from sigma_jax.evals.multi_view import MAXIMUM_OF_SIGMOID, Summary, VideoScores
from sigma_jax.evals.severe.multi_label_scores import RANKINGS, mean_average_precision
from sigma_jax.models.compute import Compute
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import Moment
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.base import Batch, Loss
from sigma_jax.tasks.classify import ClassificationTask, MultiViewSettings, labelled_data
from sigma_jax.tasks.video import eval_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiLabelTask(ClassificationTask):
    """Binary cross-entropy of every class, averaged over clips and classes, without mixup, cutmix and label smoothing.

    Attributes:
      ranking: of multi_label_scores.mean_average_precision.
    """

    title: str = "multi_label"
    ranking: str = "all_videos"

    merge = MAXIMUM_OF_SIGMOID
    best_by = "val/map"

    @classmethod
    def resolve(cls, config: ConfigDict, data_dir: str) -> ConfigDict:
        """See ClassificationTask.resolve; without a label map, a known data set has its own number of classes."""
        known = SPECS.get(config.data.name)
        if read_label_map(Path(data_dir)) or known is None or not known.num_classes:
            return super().resolve(config, data_dir)
        resolved = ConfigDict(config.to_dict())
        resolved.data.num_classes = known.num_classes
        resolved.data.label_hash = f"{known.num_classes} numbers"
        return resolved.lock()

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh, compute: Compute) -> Self:
        if config.data.num_classes is None:
            raise InvalidValue("the number of classes is not known without the data: set --config.data.num_classes")
        if config.evals.ranking not in RANKINGS:
            raise InvalidValue(
                f"evals.ranking={config.evals.ranking!r} is unknown: choose one of {', '.join(RANKINGS)}"
            )
        return cls(
            **cls.fields_of(config, mesh, compute),
            num_classes=config.data.num_classes,
            data=labelled_data(config, MultiLabelSpec),
            tests=eval_settings(config, MultiViewSettings),
            ranking=config.evals.ranking,
        )

    def loss(self, params: Params, frozen: Params, batch: Batch, seed: int, step: Moment) -> Loss:
        """Binary cross-entropy; see Task.loss.

        Args:
          batch: 'video' [B F H W 3] uint8, 'label' [B C] of 0 and 1.
        """
        logits = self.training_outputs(params, batch["video"], seed, step)
        labels = batch["label"].astype(jnp.float32)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), labels)), {}

    def summarize(self, scores: VideoScores) -> Summary:
        """mAP in per cent; classes without a positive video are left out and named."""
        value, precisions = mean_average_precision(scores.probabilities, scores.labels, self.ranking)
        absent = sorted(set(range(self.num_classes)) - set(precisions))
        problems = []
        if absent:
            problems.append(
                f"{len(absent)} of {self.num_classes} classes have no positive among {len(scores.labels)} videos and "
                f"are left out of the mAP: {absent[:20]}"
            )
        return Summary({"map": value}, problems)


TASK = MultiLabelTask
