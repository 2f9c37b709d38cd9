"""Finetuning and probes as a Task: a classifier on labelled clips, with a frozen encoder or without.

Letters: B clips, C classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sigma_jax.models.classifier import VideoClassifier
from sigma_jax.models.pretrain import Compute
from sigma_jax.models.sizes import VIDEO_SIZES, VideoSize, lookup
from sigma_jax.objective.classification import smoothed_targets, soft_target_cross_entropy
from sigma_jax.objective.mixing import MixSettings, erase, mix
from sigma_jax.ops.tubes import TubeGrid, unit_pixels
from sigma_jax.runtime.random import Moment, stream
from sigma_jax.train.tasks import Batch, Metrics, TaskCost, block_bytes


@dataclasses.dataclass(frozen=True)
class ClassificationTask:
    """Cross-entropy of a classifier under erasing, mixing and label smoothing.

    freezes_encoder: the encoder keeps its bits; norm, head and pooling are trained. Stochastic depth acts on it all the
    same, as published. mixing: None for none, and then training accuracy is a metric.
    """

    mesh: Mesh
    grid: TubeGrid
    size: VideoSize
    num_classes: int
    freezes_encoder: bool = False
    pooling: str = "mean"
    drop_path: float = 0.1
    dropout: float = 0.0
    head_init_scale: float = 0.001
    smoothing: float = 0.1
    mixing: MixSettings | None = MixSettings()
    erase_probability: float = 0.25
    positions: str = "sincos_1d"
    compute: Compute = Compute()

    batch_keys = ("video", "label")
    init_unexpected = ("encoder/norm", "decoder", "prototypes", "projection")

    @property
    def init_missing(self) -> tuple[str, ...]:
        """Parts that pre-trained weights lack: they start fresh."""
        return ("head", "norm", "pool") if self.pooling == "attentive" else ("head", "norm")

    @property
    def cost(self) -> TaskCost:
        """All tubes are visible; a frozen encoder keeps nothing for the backward pass."""
        tokens = 0 if self.freezes_encoder else self.size.depth * self.grid.num_tubes * self.size.width
        return TaskCost(self.grid.num_tubes, 0, 0, block_bytes(tokens, self.compute))

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

    def init(self, key: jax.Array) -> Any:
        video = jnp.zeros((1, self.grid.num_frames, *self.grid.image_shape, 3), jnp.uint8)
        return self.model.init(key, video)["params"]

    def init_frozen(self, key: jax.Array) -> Any:
        return {}

    def init_memory(self, clips: int) -> Any:
        return {}

    def constrain(self, params: Any) -> Any:
        return params

    def trainable(self, path: str) -> bool:
        return not (self.freezes_encoder and path.startswith("encoder/"))

    def loss(self, params: Any, frozen: Any, batch: Batch, seed: int, step: Moment) -> tuple[jax.Array, Metrics]:
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

    def classify(self, params: Any, video: jax.Array) -> jax.Array:
        """video [B F H W 3] -> logits [B C], nothing random."""
        return self.model.apply({"params": params}, video)


def classification_task(config: Any, mesh: Mesh, compute: Compute) -> ClassificationTask:
    """The task of a finetuning or probe config whose number of classes is known."""
    model, objective = config.model, config.objective
    mixing = MixSettings(objective.mixup_alpha, objective.cutmix_alpha, objective.cutmix_share)
    return ClassificationTask(
        mesh=mesh,
        grid=TubeGrid(model.num_frames, model.image_size, tuple(model.tube_size)),
        size=lookup(VIDEO_SIZES, model.size, "model size"),
        num_classes=config.data.num_classes,
        freezes_encoder=model.freeze_encoder,
        pooling=model.pooling,
        drop_path=model.drop_path,
        dropout=model.dropout,
        head_init_scale=model.head_init_scale,
        smoothing=objective.smoothing,
        mixing=mixing if objective.mixes else None,
        erase_probability=objective.erase_probability,
        positions=model.positions,
        compute=compute,
    )
