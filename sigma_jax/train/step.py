"""One jitted update, the same for every task.

Letters: B clips in the global batch, A micro-batches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sigma_jax.train.optimizer import AdamState
from sigma_jax.train.state import TrainState
from sigma_jax.train.tasks import Batch, Metrics, Task

Step = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]


def train_step(task: Task, optimizer: optax.GradientTransformation, *, seed: int, accumulation: int = 1) -> Step:
    """The update of a task, to be jitted with the state donated.

    Narrated: constrain the parameters (unit prototypes), take loss and gradient, update, and keep the old values when
    loss or gradient is not finite (counted; the step number moves on, so the next batch and mask are new ones).

    Args:
      optimizer: its update is also given `finite`, a bool scalar (see `optimizer.adamw`).
      seed: of the random streams; step k of a run draws the same numbers however often it was restarted.
      accumulation: micro-batches A whose gradients are averaged. Sinkhorn balances each micro-batch by itself:
        accumulation does not enlarge the batch it sees.

    Returns:
      step(state, frozen, batch) -> (state, metrics of scalars).
    """

    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        params = task.constrain(state.params)
        (loss, metrics), grads = loss_and_gradient(task, params, frozen, batch, (seed, state.step, accumulation))
        grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, params, finite=finite)
        updated = optax.apply_updates(params, updates)

        def keeps_itself(x):
            return isinstance(x, AdamState)

        def keep(new, old):
            def leaf(n, o):
                return n if keeps_itself(n) else jnp.where(finite, n, o)

            return jax.tree.map(leaf, new, old, is_leaf=keeps_itself)

        skipped = 1 - finite.astype(jnp.int32)
        new_state = TrainState(
            step=state.step + 1,
            params=keep(updated, params),
            opt_state=keep(opt_state, state.opt_state),
            nonfinite_steps=state.nonfinite_steps + skipped,
            nonfinite_run=(state.nonfinite_run + 1) * skipped,
        )
        metrics = metrics | {
            "loss": loss,
            "grad_norm": grad_norm,
            "nonfinite_steps": new_state.nonfinite_steps,
            "nonfinite_run": new_state.nonfinite_run,
        }
        return new_state, metrics

    return step


def loss_and_gradient(task: Task, params: Any, frozen: Any, batch: Batch, when: tuple[int, jax.Array, int]):
    """((loss, metrics), gradient) of a global batch, averaged over micro-batches.

    Args:
      when: (seed, step, accumulation).
    """
    seed, step, accumulation = when
    value_and_grad = jax.value_and_grad(task.loss, has_aux=True)
    if accumulation == 1:
        return value_and_grad(params, frozen, batch, seed, step)

    def split(x):
        # Micro-batch a takes rows a, a + A, ...: each device keeps its own rows, nothing moves.
        return x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1)

    def add(total, micro):
        index, rows = micro
        result = value_and_grad(params, frozen, rows, seed, step * accumulation + index)
        return jax.tree.map(jnp.add, total, result), None

    micro_batches = jax.tree.map(split, batch)
    rows = jax.tree.map(lambda x: x[0], micro_batches)
    shapes = jax.eval_shape(value_and_grad, params, frozen, rows, seed, step)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(accumulation), micro_batches))
    return jax.tree.map(lambda x: x / accumulation, total)
