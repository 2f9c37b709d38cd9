"""Finetuning and probes: a classifier on labelled clips, with a frozen encoder or without.

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
    ResultFiles,
    Summary,
    VideoScores,
    forward_fn,
    top_scores,
)
from sigma_jax.evals.protocol import Evaluator
from sigma_jax.models.classifier import VideoClassifier
from sigma_jax.models.pretrain import Compute
from sigma_jax.models.sizes import VIDEO_SIZES, lookup
from sigma_jax.objective.classification import smoothed_targets, soft_target_cross_entropy
from sigma_jax.objective.mixing import MixSettings, erase, mix
from sigma_jax.ops.tubes import TubeGrid, unit_pixels
from sigma_jax.runtime.config import read_section
from sigma_jax.runtime.durations import Duration, read_duration
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import Moment, stream
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks import cost
from sigma_jax.tasks.base import Batch, Loss, Place, Reading, Task, TaskCost, reading_of


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """Labelled clips of one data set; `clips` says what is cut out of a video in training."""

    clips: LabelledSpec
    name: str = "folder"
    label_hash: str | None = None
    split: str = "train"
    repeats: int = 1
    reading: Reading = Reading()

    def views(self, num_views: int, num_crops: int) -> LabelledSpec:
        """What is cut out of a video in a test of so many temporal views and crops."""
        crops = dataclasses.replace(self.clips.crops, num_crops=num_crops)
        return dataclasses.replace(self.clips, num_views=num_views, crops=crops)


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """One central view while the model trains, all views after it. decisions: where the protocol is this project's."""

    every: Duration
    num_views: int
    num_crops: int
    batch_size: int  # views, global
    val_split: str = "val"
    test_split: str = "val"
    decisions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationTask(Task):
    """Cross-entropy of a classifier under erasing, mixing and label smoothing.

    freezes_encoder: the encoder's parameters stay as they are; norm, head and pooling are trained. Stochastic depth
    acts on it all the same, as published. mixing: None for none, and then training accuracy is a metric. data, tests:
    None where only the loss is of interest.
    """

    num_classes: int
    title: str = "finetune"  # the config's task
    freezes_encoder: bool = False
    pooling: str = "mean"
    drop_path: float = 0.1
    dropout: float = 0.0
    head_init_scale: float = 0.001
    smoothing: float = 0.1
    mixing: MixSettings | None = MixSettings()
    erase_probability: float = 0.25
    data: LabelledData | None = None
    tests: EvalSettings | None = None

    merge = MEAN_OF_SOFTMAX  # of the views of a video
    best_by = "val/top1"
    batch_keys = ("video", "label")
    init_unused = ("encoder/norm", "decoder", "prototypes", "projection")

    @classmethod
    def resolve(cls, config: ConfigDict, data_dir: str) -> ConfigDict:
        """The config with the number of classes and the hash of the label map filled in from the data.

        Raises:
          DataSetError: a known data set with another number of classes, or data without classes.
          InvalidValue: the config says another number than the data.
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
            **model_fields(config, mesh, compute),
            num_classes=config.data.num_classes,
            freezes_encoder=model.freeze_encoder,
            smoothing=objective.smoothing,
            mixing=mixing if objective.mixes else None,
            erase_probability=objective.erase_probability,
            data=labelled_data(config),
            tests=eval_settings(config),
        )

    @property
    def summary(self) -> str:
        on = f" on {self.data.name}" if self.data else ""
        return f"{self.title.replace('_', ' ')}{on}, {self.num_classes} classes"

    @property
    def init_missing(self) -> tuple[str, ...]:
        return ("head", "norm", "pool") if self.pooling == "attentive" else ("head", "norm")

    def facts(self, data_dir: str) -> dict[str, Any]:
        classes = read_classes(data_dir, self.data.split)
        sampling = self.data.clips.sampling
        return super().facts(data_dir) | {
            "pooling": self.pooling,
            "num_classes": self.num_classes,
            "class_names": classes.names,
            "label_hash": self.data.label_hash,
            "sampling": sampling.kind,
            "frame_stride": sampling.stride,
        }

    @property
    def size_name(self) -> str | None:
        """The model size as configs write it; None for one that has no name."""
        return next((name for name, size in VIDEO_SIZES.items() if size == self.size), None)

    @property
    def model(self) -> VideoClassifier:
        return VideoClassifier(
            self.grid,
            self.size,
            self.num_classes,
            head_init_scale=self.head_init_scale,
            drop_path=self.drop_path,
            dropout=self.dropout,
            pooling=self.pooling,
            positions=self.positions,
            compute=self.compute,
        )

    def init(self, key: jax.Array) -> Params:
        video = jnp.zeros((1, self.grid.num_frames, *self.grid.image_shape, 3), jnp.uint8)
        return self.model.init(key, video)["params"]

    def trainable(self, path: str) -> bool:
        return not (self.freezes_encoder and path.startswith("encoder/"))

    def loss(self, params: Params, frozen: Params, batch: Batch, seed: int, step: Moment) -> Loss:
        """Erase, mix, classify.

        Args:
          batch: 'video' [B F H W 3] uint8, 'label' int [B] in [0, C).
        """
        video, targets = self.augment(batch, seed, step)
        if self.freezes_encoder:  # no backward pass through it
            params = params | {"encoder": jax.lax.stop_gradient(params["encoder"])}
        rngs = {name: stream(seed, name, step) for name in ("drop_path", "dropout")}
        logits = self.model.apply({"params": params}, video, train=True, rngs=rngs)
        loss = soft_target_cross_entropy(logits, targets)
        if self.mixing is not None:
            return loss, {}
        return loss, {"train_top1": 100.0 * jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])}

    def augment(self, batch: Batch, seed: int, step: Moment) -> tuple[jax.Array, jax.Array]:
        """The device's part: (video [B F H W 3] float, targets [B C])."""
        video = unit_pixels(batch["video"])
        targets = smoothed_targets(batch["label"], self.num_classes, self.smoothing)
        if self.erase_probability:
            video = erase(stream(seed, "erase", step), video, self.erase_probability)
        if self.mixing is not None:
            video, targets = mix(stream(seed, "mix", step), video, targets, self.mixing)
        return video, targets

    def logits(self, params: Params, video: jax.Array) -> jax.Array:
        """video [B F H W 3] -> logits [B C], nothing random."""
        return self.model.apply({"params": params}, video)

    # What it costs.

    @property
    def cost(self) -> TaskCost:
        """All tubes are visible; a frozen encoder keeps nothing for the backward pass."""
        tokens = 0 if self.freezes_encoder else self.size.depth * self.grid.num_tubes * self.size.width
        return TaskCost(self.grid.num_tubes, 0, cost.saved_bytes(tokens, self.compute))

    def flops(self) -> dict[str, float]:
        tubes, width = self.grid.num_tubes, self.size.width
        embed = tubes * self.grid.tube_dim * width
        encoder = self.size.depth * cost.block_macs(tubes, width)
        pool = (2 * tubes + 10) * width**2 + 2 * tubes * width if self.pooling == "attentive" else 0
        macs = {
            "embed": embed if self.freezes_encoder else 2 * embed,
            "encoder": encoder if self.freezes_encoder else 3 * encoder,
            "head": 3 * (pool + width * self.num_classes),  # keys and values of all tubes, one query; the linear layer
        }
        return {part: 2.0 * count for part, count in macs.items()}

    def traffic(self, clips: int, num_params: int) -> dict[str, float]:
        tubes, width = self.grid.num_tubes, self.size.width
        block = cost.frozen_block_traffic if self.freezes_encoder else cost.block_traffic
        passes = 2 if self.freezes_encoder else 4  # bytes of each number that goes into or out of the embedding
        trained = num_params - 12 * self.size.depth * width**2 if self.freezes_encoder else num_params
        return {
            "input": 3.0 * tubes * self.grid.tube_dim,
            "encoder": passes * tubes * (self.grid.tube_dim + width) + self.size.depth * block(tubes, width, clips),
            "optimizer": cost.OPTIMIZER * trained / clips,
        }

    # Data and what is measured.

    @property
    def clips_per_video(self) -> int:
        return self.data.repeats if self.data else 1

    def open_data(self, place: Place, batch_size: int, seed: int) -> Loader:
        data = self.data
        return data.reading.open_training(place, data.split, data.clips, batch_size, seed, data.repeats)

    def open_views(self, data_dir: str, split: str, num_views: int, num_crops: int) -> Loader:
        """One pass over the temporal views and crops of a split; the batch is rounded up to fill the devices."""
        batch = -(-self.tests.batch_size // self.mesh.size) * self.mesh.size
        order, clips, reading = OnePass(allow_incomplete=True), self.data.views(num_views, num_crops), self.data.reading
        return open_loader(LoaderSpec(data_dir, split, clips, order, batch, reading.workers, reading.decoding))

    def evaluators(self, place: Place) -> tuple[Evaluator, ...]:
        """Validation, which decides what the best weights are, and the multi-view test of the last ones."""
        tests, forward = self.tests, forward_fn(self.logits, self.mesh)
        central = partial(self.open_views, place.data_dir, tests.val_split, 1, 1)
        views = partial(self.open_views, place.data_dir, tests.test_split, tests.num_views, tests.num_crops)
        classes = read_classes(place.data_dir, self.data.split).names
        head = {"head": {"label_map_hash": self.data.label_hash, "class_order": "same"}}  # of a model trained on them
        files = ResultFiles(
            place.workdir / "eval",
            self._facts(),
            classes,
            place.source or str(place.workdir),
            self._problems(place.data_dir),
            place.origin or head,
        )
        rules = {"merge": self.merge, "summarize": self.summarize}
        return (
            MultiViewTest("val", forward, central, 1, tests.every, self.best_by, **rules),
            MultiViewTest("test", forward, views, tests.num_views * tests.num_crops, files=files, **rules),
        )

    def _problems(self, data_dir: str) -> tuple[str, ...]:
        """What keeps a result from being complete: missing test videos of a known set, anything a subset lacks."""
        train, test = self.data.split, self.tests.test_split
        missing = read_problems(data_dir, {test} - {train}, ("subset", "expected_videos"))
        return *read_problems(data_dir, {train}, ("subset",)), *missing

    def summarize(self, scores: VideoScores) -> Summary:
        """What is reported of the videos' scores."""
        return top_scores(scores)

    def _facts(self) -> dict[str, Any]:
        """What was measured how, for the result's file."""
        tests, sampling, size = self.tests, self.data.clips.sampling, self.data.clips.image_size
        short_side = self.data.clips.crops.short_side or size
        return {
            "data_set": self.data.name,
            "split": tests.test_split,
            "model_size": self.size_name,
            "num_views": tests.num_views,
            "num_crops": tests.num_crops,
            "frames": f"{sampling.kind}, {sampling.num_frames} frames, stride {sampling.stride}",
            "crop": f"{tests.num_crops} of {size} pixels along the long side, short side {short_side}",
            "num_classes": self.num_classes,
            "label_map_hash": self.data.label_hash,
            "decisions": list(tests.decisions),
        }


def model_fields(config: ConfigDict, mesh: Mesh, compute: Compute) -> dict[str, Any]:
    """What all tasks with a classifier on a video encoder read from a config alike."""
    model = config.model
    return {
        "mesh": mesh,
        "grid": TubeGrid(model.num_frames, model.image_size, tuple(model.tube_size)),
        "size": lookup(VIDEO_SIZES, model.size, "model size"),
        "positions": model.positions,
        "compute": compute,
        "title": config.task,
        "pooling": model.pooling,
        "drop_path": model.drop_path,
        "dropout": model.dropout,
        "head_init_scale": model.head_init_scale,
    }


def labelled_data(config: ConfigDict, kind: type[LabelledSpec] = LabelledSpec) -> LabelledData:
    """The `data` of a config whose number of classes is known, as clips of that kind."""
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


def eval_settings(config: ConfigDict) -> EvalSettings:
    """The `evals` of a config."""
    splits = {"val_split": config.data.val_split, "test_split": config.data.test_split}
    every = read_duration(config.evals, "val_every")
    return read_section(EvalSettings, config.evals, every=every, decisions=tuple(config.decisions), **splits)


TASK = ClassificationTask
