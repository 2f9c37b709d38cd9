"""The base of tasks that learn from annotated clips with a video encoder of all tubes and a head.

Letters: B clips, F frames, C outputs of the head.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sigma_jax.data.loader import Clips, Loader
from sigma_jax.evals.multi_view import ResultFiles
from sigma_jax.models.classifier import VideoClassifier
from sigma_jax.models.compute import Compute
from sigma_jax.models.sizes import VIDEO_SIZES, lookup
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.config import read_section
from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.random import Moment, stream
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks import cost
from sigma_jax.tasks.base import Place, Reading, Task, TaskCost


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoData:
    """Annotated clips of one data set.

    Attributes:
      clips: their form in training.
      name: of the data set; one of datasets.specs.SPECS, or 'folder' for others.
      split: the training split.
      reading: how they are read.
    """

    clips: Clips
    name: str = "folder"
    split: str = "train"
    reading: Reading = Reading()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """When and on what a model is measured.

    Attributes:
      val_every: interval of the validation during training.
      batch_size: rows of the network's input, over all devices.
      val_split, test_split: names of splits.
      decisions: sentences on points of the protocol that are our choice.
    """

    val_every: Duration
    batch_size: int  # rows of the network's input, global
    val_split: str = "val"
    test_split: str = "val"
    decisions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoTask(Task):
    """A task whose network is a VideoClassifier; subclasses define what its outputs mean.

    Attributes:
      title: the `task` of the config.
      freezes_encoder: whether only norm, head and pooling are trained. Stochastic depth acts in a frozen encoder, too,
        as published.
      pooling, drop_path, dropout, head_init_scale: see models.classifier.VideoClassifier.
      data: the clips; None if only the loss is used.
      tests: when and on what the model is measured; None if only the loss is used.
    """

    title: str
    freezes_encoder: bool = False
    pooling: str = "mean"
    drop_path: float = 0.1
    dropout: float = 0.0
    head_init_scale: float = 0.001
    data: VideoData | None = None
    tests: EvalSettings | None = None

    batch_keys = ("video", "label")
    init_unused = ("encoder/norm", "decoder", "prototypes", "projection")

    @staticmethod
    def fields_of(config: ConfigDict, mesh: Mesh, compute: Compute) -> dict[str, Any]:
        """The fields that all of these tasks read from a config."""
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

    @property
    @abc.abstractmethod
    def num_outputs(self) -> int:
        """C, the number of outputs of the head."""

    @property
    def summary(self) -> str:
        on = f" on {self.data.name}" if self.data else ""
        return f"{self.title.replace('_', ' ')}{on}"

    @property
    def init_missing(self) -> tuple[str, ...]:
        return ("head", "norm", "pool") if self.pooling == "attentive" else ("head", "norm")

    def facts(self, data_dir: str) -> dict[str, Any]:
        return super().facts(data_dir) | {"pooling": self.pooling}

    # The network.

    @property
    def model(self) -> VideoClassifier:
        return VideoClassifier(
            self.grid,
            self.size,
            self.num_outputs,
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

    def training_outputs(self, params: Params, video: jax.Array, seed: int, step: Moment) -> jax.Array:
        """Outputs [B C] of clips [B F H W 3] in training, with dropout and stochastic depth."""
        if self.freezes_encoder:  # so that its backward pass is not computed
            params = params | {"encoder": jax.lax.stop_gradient(params["encoder"])}
        rngs = {name: stream(seed, name, step) for name in ("drop_path", "dropout")}
        return self.model.apply({"params": params}, video, train=True, rngs=rngs)

    def outputs(self, params: Params, video: jax.Array) -> jax.Array:
        """Outputs [B C] of clips [B F H W 3] in tests, without randomness."""
        return self.model.apply({"params": params}, video)

    # Costs.

    @property
    def cost(self) -> TaskCost:
        """All tubes are visible, and a frozen encoder keeps nothing for the backward pass; see Task.cost."""
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
            "head": 3 * (pool + width * self.num_outputs),  # keys and values of all tubes, one query; the linear layer
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

    # Data and evaluators.

    def abstract_batch(self, clips: int) -> dict[str, jax.ShapeDtypeStruct]:
        spec = self.data.clips
        return {
            "video": jax.ShapeDtypeStruct((clips, *spec.shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((clips, *spec.label_shape), jnp.int32),
        }

    def open_data(self, place: Place, batch_size: int, seed: int) -> Loader:
        data = self.data
        return data.reading.open_training(place, data.split, data.clips, batch_size, seed, self.clips_per_video)

    def result_files(
        self, place: Place, measured: dict[str, Any], classes: Sequence[str] = (), problems: Sequence[str] = ()
    ) -> ResultFiles:
        """The files of the test's result.

        Args:
          place: of the run.
          measured: facts about the test, in addition to those of every result.
          classes: class names.
          problems: sentences on why the data are incomplete.
        """
        facts = {
            "data_set": self.data.name,
            "split": self.tests.test_split,
            "model_size": next((name for name, size in VIDEO_SIZES.items() if size == self.size), None),
            **measured,
            "decisions": list(self.tests.decisions),
        }
        source = place.source or str(place.workdir)
        return ResultFiles(place.workdir / "eval", facts, tuple(classes), source, tuple(problems), place.origin)


Settings = TypeVar("Settings", bound=EvalSettings)


def eval_settings(config: ConfigDict, kind: type[Settings]) -> Settings:
    """Reads the settings in a config's `evals`."""
    splits = {"val_split": config.data.val_split, "test_split": config.data.test_split}
    return read_section(kind, config.evals, decisions=tuple(config.decisions), **splits)
