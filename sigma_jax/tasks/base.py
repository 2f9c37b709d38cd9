"""What a run learns, as one object: the protocol between tasks and everything that serves them.

Trainer, planner, benchmarks and reports use a task through the members of `Task` and know no other. A new task is a
file in this folder with a subclass under the name TASK, a row in MODULES, and a config.

Letters: B clips, F frames, M hidden tubes, K prototypes.
"""

import abc
import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sigma_jax.data.decoders import Decoding
from sigma_jax.data.loader import Clips, Loader, LoaderSpec, Shuffled, Workers, open_loader
from sigma_jax.evals.protocol import Evaluator
from sigma_jax.models.compute import Compute
from sigma_jax.models.sizes import TeacherSize, VideoSize, lookup
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.random import Moment
from sigma_jax.runtime.trees import Params

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = tuple[jax.Array, Metrics]

MODULES = {  # a config's `task`: the file of this folder that has it
    "pretrain": "pretrain",
    "finetune": "classify",
    "linear_probe": "classify",
    "attentive_probe": "classify",
    "multi_label": "multi_label",
    "repetition": "repetition",
}


def task_class(name: str) -> type["Task"]:
    """The class of a config's `task`; an unknown name lists the known ones."""
    return importlib.import_module(f"sigma_jax.tasks.{lookup(MODULES, name, 'task')}").TASK


class TaskCost(NamedTuple):
    """What a plan says about a task, per clip. activation_bytes: rough, kept for a backward pass without remat."""

    tubes_visible: int
    tubes_hidden: int
    activation_bytes: int
    num_prototypes: int = 0  # 0: without Sinkhorn
    queue_batches: int = 0  # past micro-batches whose hidden tubes join Sinkhorn
    queue_start: int = 0  # micro-batches before they do


class Place(NamedTuple):
    """Where a run finds its data and leaves its files.

    source: of the weights that are measured, "" for the run's. origin: what results say about them beside their source.
    """

    data_dir: str
    workdir: Path
    source: str = ""
    origin: Mapping[str, Any] = {}


class Examples(NamedTuple):
    """A few training clips for the pictures of a report."""

    video: np.ndarray  # uint8 [B F y x 3]
    masked_idx: np.ndarray  # int [B M]
    scores: np.ndarray | None  # cosine of each hidden tube with each prototype [B M K]; None without prototypes


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a host reads its training clips."""

    num_workers: int = 0
    max_bad_fraction: float = 0.01
    cache_decoded: bool = False
    decoding: Decoding = Decoding()

    @property
    def workers(self) -> Workers:
        """This process among all."""
        return Workers(self.num_workers, jax.process_index(), jax.process_count())

    def open_training(
        self, place: Place, split: str, clips: Clips, batch_size: int, seed: int, repeats: int = 1
    ) -> Loader:
        """This process's part of endless shuffled batches of `batch_size` videos, `repeats` clips of each."""
        return open_loader(
            LoaderSpec(
                place.data_dir,
                split,
                clips,
                Shuffled(seed, repeats, self.max_bad_fraction, place.workdir),
                batch_size * repeats,
                self.workers,
                self.decoding,
                self.cache_decoded,
            )
        )


def reading_of(data: ConfigDict) -> Reading:
    """The part of a config's `data` that every task has."""
    decoding = Decoding(data.decoder, data.decode_timeout)
    return Reading(data.num_workers, data.max_bad_fraction, data.cache_decoded, decoding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """What a run learns. The fields below are what every task has; the rest of a task is its own affair.

    mesh: where it computes. grid: the clip in tubes. size: of the video model. teacher: the frozen image model whose
    weights it needs, None for none.
    """

    mesh: Mesh
    grid: TubeGrid
    size: VideoSize
    positions: str = "sincos_1d"
    compute: Compute = Compute()
    teacher: TeacherSize | None = None

    # What a class says of all its tasks.
    batch_keys = ("video",)  # what of a host batch goes to the device
    init_missing = ()  # parameters that the weights of --init may lack unless they are of this very task: start fresh
    init_unused = ()  # parameters of --init that may be left over
    drawn_params = ()  # parameters that `examples` needs

    @classmethod
    def resolve(cls, config: ConfigDict, data_dir: str) -> ConfigDict:
        """The config with what only the data know filled in, such as the number of classes."""
        return config

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh, compute: Compute) -> Self:
        """The task of a resolved config; every unknown name is an error here, before anything is compiled."""

    @property
    @abc.abstractmethod
    def summary(self) -> str:
        """What is learned, as part of a sentence: 'target mlp'."""

    # Data.

    clips_per_video = 1  # of one batch; batch_size counts videos

    @abc.abstractmethod
    def open_data(self, place: Place, batch_size: int, seed: int) -> Loader:
        """This process's part of the endless training batches."""

    def abstract_batch(self, clips: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of `batch_keys` in a global batch, without shardings."""
        video = (clips, self.grid.num_frames, *self.grid.image_shape, 3)
        shapes = {"video": (video, jnp.uint8), "label": ((clips,), jnp.int32)}
        return {name: jax.ShapeDtypeStruct(*shapes[name]) for name in self.batch_keys}

    # Parameters.

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Params:
        """Fresh parameters; run under jit or eval_shape."""

    def init_frozen(self, key: jax.Array) -> Params:
        """Parameters that are used but never trained or checkpointed (a teacher's)."""
        return {}

    def init_memory(self, clips: int) -> Params:
        """Arrays that the task remembers from micro-batch to micro-batch of `clips` clips; they are checkpointed."""
        return {}

    def constrain(self, params: Params) -> Params:
        """Applied before each step, outside the gradient."""
        return params

    def trainable(self, path: str) -> bool:
        """Whether the parameter at 'a/b/c' is updated."""
        return True

    def facts(self, data_dir: str) -> dict[str, Any]:
        """What no array tells, and what weights must have been made for to mean the same here (weights/facts.py)."""
        grid = self.grid
        clip = {"num_frames": grid.num_frames, "image_size": grid.image_size, "tube_size": grid.tube_size}
        encoder = {"width": self.size.width, "depth": self.size.depth, "num_heads": self.size.num_heads}
        return encoder | clip | {"positions": self.positions}

    # Learning.

    @abc.abstractmethod
    def loss(self, params: Params, frozen: Params, batch: Batch, seed: int, step: Moment) -> Loss:
        """Scalar loss and metrics of a global batch; where `batch` has 'memory', the metrics have the next one."""

    # What a plan and a benchmark count.

    @property
    @abc.abstractmethod
    def cost(self) -> TaskCost:
        """Tubes and memory of one clip."""

    @abc.abstractmethod
    def flops(self) -> dict[str, float]:
        """Model FLOPs of one clip in one training step, by part (tasks/cost.py says what counts)."""

    @abc.abstractmethod
    def traffic(self, clips: int, num_params: int) -> dict[str, float]:
        """Bytes that a device must move per clip with `clips` clips on it, by part (tasks/cost.py)."""

    # What is measured and shown.

    def evaluators(self, place: Place) -> tuple[Evaluator, ...]:
        """What is measured, during training and after it; those without a schedule are also run by --mode=eval."""
        return ()

    def examples(self, place: Place, num_clips: int, seed: int, weights: tuple[Params, Params]) -> Examples | None:
        """Clips for a report's pictures, scored by the weights (`drawn_params`, frozen); None where there are none."""
        return None
