"""The protocol of tasks: everything that a run needs to know about what it learns, in one object.

Trainer, planner, benchmarks and reports use a task through the members of `Task` only. A new task is a file in this
folder with a subclass under the name TASK, a row in MODULES, and a config.

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
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import Moment
from sigma_jax.runtime.trees import Params

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = tuple[jax.Array, Metrics]

MODULES = {  # the `task` of a config -> the file in this folder
    "pretrain": "pretrain",
    "finetune": "classify",
    "linear_probe": "classify",
    "attentive_probe": "classify",
    "multi_label": "multi_label",
    "repetition": "repetition",
}


def task_class(name: str) -> type["Task"]:
    """The class for the `task` of a config; raises InvalidValue that lists the known names."""
    return importlib.import_module(f"sigma_jax.tasks.{lookup(MODULES, name, 'task')}").TASK


def run_config(spec: str, overrides: Mapping[str, str]) -> ConfigDict:
    """The config `path[:arg]` of a run, with the values of `overrides`.

    Raises:
      InvalidValue: it describes no run: its `task` is none of MODULES.
    """
    config = apply_overrides(load_config(spec), overrides)
    if config.get("task") == "attentive_grid":
        raise InvalidValue(f"{spec} trains heads on stored tokens: give it to sigma_jax.tools.probe_attentive")
    task_class(config.get("task"))
    return config


class TaskCost(NamedTuple):
    """The cost of a task per clip, for plans.

    Attributes:
      tubes_visible, tubes_hidden: of a clip.
      activation_bytes: approximate bytes that are kept for the backward pass without rematerialisation.
      num_prototypes: 0: without Sinkhorn.
      queue_batches: micro-batches in the feature queue.
      queue_start: micro-batches before the queue is used.
    """

    tubes_visible: int
    tubes_hidden: int
    activation_bytes: int
    num_prototypes: int = 0
    queue_batches: int = 0
    queue_start: int = 0


class Place(NamedTuple):
    """Where a run finds its data and writes its files.

    Attributes:
      data_dir: the data set.
      workdir: for files.
      source: of the weights that are measured; "": the run's own.
      origin: facts about these weights for results.
    """

    data_dir: str
    workdir: Path
    source: str = ""
    origin: Mapping[str, Any] = {}


class Examples(NamedTuple):
    """A few training clips for the pictures of a report."""

    video: np.ndarray  # uint8 [B F y x 3]
    masked_idx: np.ndarray  # int [B M]
    scores: np.ndarray | None  # cosine similarities of hidden tubes to prototypes [B M K]; None without prototypes


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a host reads its training clips.

    Attributes:
      num_workers: worker processes; 0: threads of this process.
      max_bad_fraction: share of unreadable records, 0..1, above which the run stops.
      cache_decoded: whether decoded videos are kept in memory.
      decoding: library and time limit.
    """

    num_workers: int = 0
    max_bad_fraction: float = 0.01
    cache_decoded: bool = False
    decoding: Decoding = Decoding()

    @property
    def workers(self) -> Workers:
        """The reading processes of this host."""
        return Workers(self.num_workers, jax.process_index(), jax.process_count())

    def open_training(
        self, place: Place, split: str, clips: Clips, batch_size: int, seed: int, repeats: int = 1
    ) -> Loader:
        """Opens this process's part of endless shuffled batches of `batch_size` videos, `repeats` clips of each."""
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
    """The settings in a config's `data` that all tasks share."""
    decoding = Decoding(data.decoder, data.decode_timeout)
    return Reading(data.num_workers, data.max_bad_fraction, data.cache_decoded, decoding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """What a run learns; a subclass adds the fields that only its own code uses.

    Attributes:
      mesh: the devices.
      grid: how a clip is cut into tubes.
      size: of the video model.
      positions: kind of positional embedding.
      compute: type and implementation of the arithmetic.
      teacher: the frozen image model whose weights are needed, or None.
      batch_keys: the parts of a batch that are sent to the devices.
      init_missing: parameters that weights of --init from another task may lack; they are initialised anew.
      init_unused: parameters of --init that may remain unused.
      drawn_params: parameters that `examples` needs.
      clips_per_video: clips of one video in a batch; batch_size counts videos.
    """

    mesh: Mesh
    grid: TubeGrid
    size: VideoSize
    positions: str = "sincos_1d"
    compute: Compute = Compute()
    teacher: TeacherSize | None = None

    # Properties of a class of tasks.
    batch_keys = ("video",)
    init_missing = ()
    init_unused = ()
    drawn_params = ()

    @classmethod
    def resolve(cls, config: ConfigDict, data_dir: str) -> ConfigDict:
        """The config with values that depend on the data filled in, such as the number of classes."""
        return config

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh, compute: Compute) -> Self:
        """Makes the task of a resolved config; unknown names in it raise InvalidValue, before anything is compiled."""

    @property
    @abc.abstractmethod
    def summary(self) -> str:
        """What is learned, as part of a sentence, such as 'target mlp'."""

    # Data.

    clips_per_video = 1

    @abc.abstractmethod
    def open_data(self, place: Place, batch_size: int, seed: int) -> Loader:
        """Opens this process's part of the endless training batches."""

    def abstract_batch(self, clips: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of `batch_keys` in a global batch, without shardings."""
        video = (clips, self.grid.num_frames, *self.grid.image_shape, 3)
        shapes = {"video": (video, jnp.uint8), "label": ((clips,), jnp.int32)}
        return {name: jax.ShapeDtypeStruct(*shapes[name]) for name in self.batch_keys}

    # Parameters.

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Params:
        """Initial parameters; called under jit or eval_shape."""

    def init_frozen(self, key: jax.Array) -> Params:
        """Parameters that are used but never trained or checkpointed (a teacher's)."""
        return {}

    def init_memory(self, clips: int) -> Params:
        """Arrays that are carried from one micro-batch of `clips` clips to the next; they are checkpointed."""
        return {}

    def constrain(self, params: Params) -> Params:
        """Projects parameters onto their constraints before each step, outside the gradient."""
        return params

    def trainable(self, path: str) -> bool:
        """Whether the parameter at 'a/b/c' is updated."""
        return True

    def facts(self, data_dir: str) -> dict[str, Any]:
        """The facts about the model that weights must agree with (weights/facts.py)."""
        grid = self.grid
        clip = {"num_frames": grid.num_frames, "image_size": grid.image_size, "tube_size": grid.tube_size}
        encoder = {"width": self.size.width, "depth": self.size.depth, "num_heads": self.size.num_heads}
        return encoder | clip | {"positions": self.positions}

    # Learning.

    @abc.abstractmethod
    def loss(self, params: Params, frozen: Params, batch: Batch, seed: int, step: Moment) -> Loss:
        """Scalar loss and metrics of a global batch.

        Args:
          params, frozen: parameters.
          batch: global arrays of `batch_keys`; 'memory' holds the arrays of `init_memory`, if there are any, and
            metrics['memory'] then returns the next ones.
          seed: of the run.
          step: time of the random draws (runtime/random.py).
        """

    # Costs, for plans and benchmarks.

    @property
    @abc.abstractmethod
    def cost(self) -> TaskCost:
        """Tubes and memory of one clip."""

    @abc.abstractmethod
    def flops(self) -> dict[str, float]:
        """Model FLOPs of one clip in one training step, by part of the model; tasks/cost.py defines what is counted."""

    @abc.abstractmethod
    def traffic(self, clips: int, num_params: int) -> dict[str, float]:
        """Memory traffic per clip in bytes, by part of the model, with `clips` clips per device; see tasks/cost.py."""

    # What is measured and shown.

    def evaluators(self, place: Place) -> tuple[Evaluator, ...]:
        """The evaluators of a run. Those whose `every` is None run after training and by --mode=eval only."""
        return ()

    def examples(self, place: Place, num_clips: int, seed: int, weights: tuple[Params, Params]) -> Examples | None:
        """Clips for the pictures of a report, scored by the weights (`drawn_params`, frozen); None: no pictures."""
        return None
