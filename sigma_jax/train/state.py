"""The training state: what a step changes and a checkpoint restores."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sigma_jax.runtime.random import stream
from sigma_jax.runtime.trees import Params, Tree
from sigma_jax.tasks.base import Task


class TrainState(NamedTuple):
    """Everything that a checkpoint restores, besides the position in the data.

    step: steps done, skipped ones included, int32. params, opt_state: trees, fp32. nonfinite_steps: steps skipped so
    far because loss or gradient was not finite. nonfinite_run: skipped steps since the last update. memory: what the
    task keeps of past batches, e.g. a feature queue ({} for most tasks).
    """

    step: jax.Array
    params: Tree
    opt_state: Tree
    nonfinite_steps: jax.Array
    nonfinite_run: jax.Array
    memory: Tree


@functools.partial(jax.jit, static_argnums=(0, 1))
def initial_params(task: Task, seed: int) -> Params:
    """The task's first parameters. The plan, the shapes and the first state of a run share one trace of `task.init`."""
    return task.init(stream(seed, "init"))


def new_state(params: Tree, optimizer: optax.GradientTransformation, memory: Tree) -> TrainState:
    """The state before the first step. Call it under jit, so that each counter gets a buffer that can be donated."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        nonfinite_steps=jnp.zeros((), jnp.int32),
        nonfinite_run=jnp.zeros((), jnp.int32),
        memory=memory,
    )
