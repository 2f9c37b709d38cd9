"""The training state: what a step changes and a checkpoint restores."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sigma_jax.runtime.trees import Tree


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
