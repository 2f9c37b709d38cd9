"""A training step of a config on random clips: what the modes `step` and `compile` share."""

from collections.abc import Callable

import jax
import numpy as np
from absl import flags

from sigma_jax.runtime import config as configs
from sigma_jax.tasks.base import run_config
from sigma_jax.tools.benchmarks.options import OPTIONS
from sigma_jax.train.program import Program
from sigma_jax.train.setup import plan_program

flags.DEFINE_string("config", "configs/k400.py:size=S", "Config file, with structure after ':'.", flag_values=OPTIONS)
flags.DEFINE_integer(
    "batch", None, "Clips in the global batch; default the config's.", lower_bound=1, flag_values=OPTIONS
)

NUM_RECORDS = 240_436  # Kinetics-400's training set: only the schedule depends on it


def prepare(overrides: dict[str, str]) -> Program:
    """The step that --config, --batch and overrides describe, planned but neither compiled nor allocated."""
    config = run_config(OPTIONS.config, overrides)
    if OPTIONS.batch:
        config = configs.apply_overrides(config, {"batch_size": str(OPTIONS.batch)})
    return plan_program(config, NUM_RECORDS)


def stepper(program: Program) -> Callable[[], dict[str, jax.Array]]:
    """A function that dispatches one update on noise and returns its metrics; the state moves on inside."""
    rng = np.random.default_rng(0)

    def noise(shape: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.integers(0, 256, shape.shape, np.uint8) if shape.dtype == np.uint8 else np.zeros(shape.shape)
        return jax.device_put(values.astype(shape.dtype), shape.sharding)

    batch = jax.tree.map(noise, program.abstract_batch)
    state, frozen = program.init_state(), program.init_frozen()

    def advance():
        nonlocal state
        state, metrics = program.step(state, frozen, batch)
        return metrics

    return advance
