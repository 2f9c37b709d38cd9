"""A pre-training step of a config on random clips: what the modes `step` and `compile` share."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from sigma_jax.runtime import config as configs
from sigma_jax.runtime.random import stream
from sigma_jax.runtime.sharding import batch_sharding, make_mesh
from sigma_jax.tools.benchmarks.options import OPTIONS
from sigma_jax.train import setup
from sigma_jax.train.initial_weights import cast_frozen
from sigma_jax.train.plan import RunPlan, resolve_plan
from sigma_jax.train.tasks import PretrainTask, pretrain_task

flags.DEFINE_string("config", "configs/k400.py:size=S", "Config file, with structure after ':'.", flag_values=OPTIONS)
flags.DEFINE_integer(
    "batch", None, "Clips in the global batch; default the config's.", lower_bound=1, flag_values=OPTIONS
)

NUM_RECORDS = 240_436  # Kinetics-400's training set: only the schedule depends on it


@dataclasses.dataclass
class SyntheticRun:
    """Everything a step takes, as shapes; `make` fills them."""

    config: Any
    task: PretrainTask
    plan: RunPlan
    compiled: setup.CompiledStep

    @property
    def shapes(self) -> tuple[Any, Any, dict[str, jax.ShapeDtypeStruct]]:
        """(state, frozen, batch) without a buffer."""
        grid = self.task.grid
        sharding = batch_sharding(self.task.mesh)
        video = (self.plan.batch_size, grid.num_frames, *grid.image_shape, 3)
        batch = {"video": jax.ShapeDtypeStruct(video, jnp.uint8, sharding=sharding)}
        return self.compiled.abstract_state, jax.eval_shape(self._frozen), batch

    def make(self) -> tuple[Any, Any, dict[str, jax.Array]]:
        """A fresh state, a random teacher (if any) and uint8 noise."""
        video = self.shapes[2]["video"]
        pixels = np.random.default_rng(0).integers(0, 256, video.shape, np.uint8)
        batch = {"video": jax.device_put(pixels, video.sharding)}
        return self.compiled.init_state(), jax.jit(self._frozen)(), batch

    def _frozen(self) -> Any:
        weights = self.task.init_frozen(stream(self.config.seed, "teacher"))
        return cast_frozen(weights, self.task.compute.dtype)


def prepare(overrides: dict[str, str]) -> SyntheticRun:
    """The step that --config, --batch and overrides describe, planned but neither compiled nor allocated."""
    config = configs.apply_overrides(configs.load_config(OPTIONS.config), overrides)
    if OPTIONS.batch:
        config = configs.apply_overrides(config, {"batch_size": str(OPTIONS.batch)})
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    task = pretrain_task(config, mesh, setup.build_compute(config.compute))
    plan = resolve_plan(config, mesh, task, NUM_RECORDS)
    return SyntheticRun(config, task, plan, setup.build_step(config, task, plan))


def stepper(run: SyntheticRun):
    """A function that dispatches one update and returns its metrics; the state moves on inside."""
    state, frozen, batch = run.make()

    def advance(carry):
        carry[0], metrics = run.compiled.step(carry[0], frozen, batch)
        return metrics

    return functools.partial(advance, [state])
