"""What a step changes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sigma_jax.runtime.trees import Tree


class TrainState(NamedTuple):
    """Everything a checkpoint restores besides the position in the data.

    params, opt_state: trees, fp32. step: updates done, int32. nonfinite_steps: updates skipped so far because loss or
    gradient was not finite; nonfinite_run: how many of the latest in a row. memory: what the task remembers of past
    batches ({} for most).
    """

    step: jax.Array
    params: Tree
    opt_state: Tree
    nonfinite_steps: jax.Array
    nonfinite_run: jax.Array
    memory: Tree


def new_state(params: Tree, optimizer: optax.GradientTransformation, memory: Tree) -> TrainState:
    """The state before the first step. Call it under jit: every counter is its own buffer (donation needs that)."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        nonfinite_steps=jnp.zeros((), jnp.int32),
        nonfinite_run=jnp.zeros((), jnp.int32),
        memory=memory,
    )
