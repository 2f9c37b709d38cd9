"""Finetuning, linear and attentive probes: classification of labelled clips, with a frozen encoder or without.

Letters: B clips, F frames, N tubes, D width, C classes.
"""

import dataclasses
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sigma_jax.data.finetune_augment import RandAugment, TrainAugment, ViewCrop
from sigma_jax.data.labelled import LabelledSpec
from sigma_jax.data.loader import Loader, LoaderSpec, OnePass, open_loader
from sigma_jax.data.metadata import read_problems
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.datasets.classes import check_known, read_classes
from sigma_jax.evals.multi_view import (
    MEAN_OF_SOFTMAX,
    MultiViewTest,
    Summary,
    VideoScores,
    forward_fn,
    top_scores,
)
from sigma_jax.evals.protocol import Evaluator
from sigma_jax.models.compute import Compute
from sigma_jax.objective.classification import smoothed_targets, soft_target_cross_entropy
from sigma_jax.objective.mixing import MixSettings, erase, mix
from sigma_jax.ops.tubes import unit_pixels
from sigma_jax.runtime.config import read_section
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import Moment, stream
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.base import Batch, Loss, Place, reading_of
from sigma_jax.tasks.video import EvalSettings, VideoData, VideoTask, eval_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledData(VideoData):
    """Labelled clips of one data set.

    Attributes:
      clips: their form.
      label_hash: hash of the label map.
      repeats: clips of a video in one batch, with the same frames and label (repeated augmentation).
    """

    clips: LabelledSpec
    label_hash: str | None = None
    repeats: int = 1

    def views(self, num_views: int, num_crops: int) -> LabelledSpec:
        """The form of the clips in a test with so many temporal views and crops."""
        crops = dataclasses.replace(self.clips.crops, num_crops=num_crops)
        return dataclasses.replace(self.clips, num_views=num_views, crops=crops)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiViewSettings(EvalSettings):
    """Views of the test after training; validation during training uses one central view."""

    num_views: int
    num_crops: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationTask(VideoTask):
    """Cross-entropy with random erasing, mixup, cutmix and label smoothing (the authors' finetuning).

    Attributes:
      num_classes: C.
      title: name of the task in messages.
      smoothing: label smoothing, 0..1.
      mixing: mixup and cutmix; None: neither, and training accuracy is a metric.
      erase_probability: of random erasing.
      data: the clips.
      tests: the views of the test.
      merge: how the views of a video are merged.
      best_by: the number by which the best weights are chosen.
    """

    num_classes: int
    title: str = "finetune"
    smoothing: float = 0.1
    mixing: MixSettings | None = MixSettings()
    erase_probability: float = 0.25
    data: LabelledData | None = None
    tests: MultiViewSettings | None = None

    merge = MEAN_OF_SOFTMAX
    best_by = "val/top1"

    @classmethod
    def resolve(cls, config: ConfigDict, data_dir: str) -> ConfigDict:
        """The config with the number of classes and the hash of the label map filled in from the data.

        Raises:
          DataSetError: a known data set with another number of classes, or data without classes.
          InvalidValue: the config has another number of classes than the data.
        """
        classes = read_classes(data_dir, config.data.split)
        check_known(config.data.name, classes)
        if config.data.num_classes not in (None, classes.num_classes):
            raise InvalidValue(f"data.num_classes={config.data.num_classes}, but {data_dir} has {classes.num_classes}")
        resolved = ConfigDict(config.to_dict())
        resolved.data.num_classes, resolved.data.label_hash = classes.num_classes, classes.label_hash
        return resolved.lock()

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh, compute: Compute) -> Self:
        model, objective = config.model, config.objective
        if config.data.num_classes is None:
            raise InvalidValue("the number of classes is not known without the data: set --config.data.num_classes")
        mixing = MixSettings(objective.mixup_alpha, objective.cutmix_alpha, objective.cutmix_share)
        return cls(
            **cls.fields_of(config, mesh, compute),
            num_classes=config.data.num_classes,
            freezes_encoder=model.freeze_encoder,
            smoothing=objective.smoothing,
            mixing=mixing if objective.mixes else None,
            erase_probability=objective.erase_probability,
            data=labelled_data(config),
            tests=eval_settings(config, MultiViewSettings),
        )

    @property
    def num_outputs(self) -> int:
        return self.num_classes

    @property
    def summary(self) -> str:
        return f"{super().summary}, {self.num_classes} classes"

    def facts(self, data_dir: str) -> dict[str, Any]:
        classes = read_classes(data_dir, self.data.split)
        sampling = self.data.clips.sampling
        return super().facts(data_dir) | {
            "num_classes": self.num_classes,
            "class_names": classes.names,
            "label_hash": self.data.label_hash,
            "sampling": sampling.kind,
            "frame_stride": sampling.stride,
        }

    def loss(self, params: Params, frozen: Params, batch: Batch, seed: int, step: Moment) -> Loss:
        """Cross-entropy after augmentation; see Task.loss.

        Args:
          batch: 'video' [B F H W 3] uint8, 'label' int [B] in [0, C).
        """
        video, targets = self.augment(batch, seed, step)
        logits = self.training_outputs(params, video, seed, step)
        loss = soft_target_cross_entropy(logits, targets)
        if self.mixing is not None:
            return loss, {}
        return loss, {"train_top1": 100.0 * jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])}

    def augment(self, batch: Batch, seed: int, step: Moment) -> tuple[jax.Array, jax.Array]:
        """Augments a batch on the devices: (video [B F H W 3] float in [0, 1], targets [B C])."""
        video = unit_pixels(batch["video"])
        targets = smoothed_targets(batch["label"], self.num_classes, self.smoothing)
        if self.erase_probability:
            video = erase(stream(seed, "erase", step), video, self.erase_probability)
        if self.mixing is not None:
            video, targets = mix(stream(seed, "mix", step), video, targets, self.mixing)
        return video, targets

    # Data and evaluators.

    @property
    def clips_per_video(self) -> int:
        return self.data.repeats if self.data else 1

    def open_views(self, data_dir: str, split: str, num_views: int, num_crops: int) -> Loader:
        """Opens one pass over the temporal views and crops of a split; the batch is rounded up to fill the devices."""
        batch = -(-self.tests.batch_size // self.mesh.size) * self.mesh.size
        order, clips, reading = OnePass(allow_incomplete=True), self.data.views(num_views, num_crops), self.data.reading
        return open_loader(LoaderSpec(data_dir, split, clips, order, batch, reading.workers, reading.decoding))

    def evaluators(self, place: Place) -> tuple[Evaluator, ...]:
        """Validation unless never, by which the best weights are chosen; the multi-view test of the last weights."""
        tests, forward = self.tests, forward_fn(self.outputs, self.mesh)
        central = partial(self.open_views, place.data_dir, tests.val_split, 1, 1)
        views = partial(self.open_views, place.data_dir, tests.test_split, tests.num_views, tests.num_crops)
        classes = read_classes(place.data_dir, self.data.split).names
        # a head that this run trains has the classes of these data
        head = {"head": {"label_map_hash": self.data.label_hash, "class_order": "same"}}
        kept = place._replace(origin=place.origin or head)
        files = self.result_files(kept, self._measured(), classes, self._problems(place.data_dir))
        rules = {"merge": self.merge, "summarize": self.summarize}
        test = MultiViewTest("test", forward, views, tests.num_views * tests.num_crops, files=files, **rules)
        if not tests.val_every.amount:
            return (test,)
        return MultiViewTest("val", forward, central, 1, tests.val_every, self.best_by, **rules), test

    def _problems(self, data_dir: str) -> tuple[str, ...]:
        """Why a result is incomplete: missing test videos of a known data set, or anything missing in a subset."""
        train, test = self.data.split, self.tests.test_split
        missing = read_problems(data_dir, {test} - {train}, ("subset", "expected_videos"))
        return *read_problems(data_dir, {train}, ("subset",)), *missing

    def summarize(self, scores: VideoScores) -> Summary:
        """The numbers that are reported."""
        return top_scores(scores)

    def _measured(self) -> dict[str, Any]:
        """What is measured and how, for result.json."""
        tests, sampling, size = self.tests, self.data.clips.sampling, self.data.clips.image_size
        short_side = self.data.clips.crops.short_side or size
        return {
            "num_views": tests.num_views,
            "num_crops": tests.num_crops,
            "frames": f"{sampling.kind}, {sampling.num_frames} frames, stride {sampling.stride}",
            "crop": f"{tests.num_crops} of {size} pixels along the long side, short side {short_side}",
            "num_classes": self.num_classes,
            "label_map_hash": self.data.label_hash,
        }


def labelled_data(config: ConfigDict, kind: type[LabelledSpec] = LabelledSpec) -> LabelledData:
    """The `data` of a resolved config, as clips of this kind."""
    data = config.data
    augment = None
    if data.rand_augment:
        magnitude, num_operations, std = data.rand_augment
        augment = RandAugment(magnitude, int(num_operations), std)
    clips = kind(
        FrameSampling(data.sampling, config.model.num_frames, data.frame_stride),
        config.model.image_size,
        data.num_classes,
        augment=TrainAugment(augment, data.min_area, data.flip, data.interpolation),
        crops=ViewCrop(1, data.short_side, data.interpolation, data.get("crops_round_up", False)),
    )
    return read_section(LabelledData, data, clips=clips, reading=reading_of(data))


TASK = ClassificationTask
