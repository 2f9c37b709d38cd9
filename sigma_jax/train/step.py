"""The update of a training step, the same for every task.

Letters: A micro-batches.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from sigma_jax.runtime.random import Moment
from sigma_jax.runtime.trees import Tree
from sigma_jax.tasks.base import Batch, Metrics, Task
from sigma_jax.train.optimizer import AdamState
from sigma_jax.train.state import TrainState

Step = Callable[[TrainState, Tree, Batch], tuple[TrainState, Metrics]]


def train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    accumulation: int = 1,
    learning_rate: Callable[[jax.Array], jax.Array] | None = None,
) -> Step:
    """The update of a task, to be jitted with the state donated.

    It projects the parameters onto their constraints (unit prototypes), computes loss and gradient, and updates. Where
    loss or gradient is not finite, parameters and optimizer state keep their values; the step is counted as skipped,
    and the next step takes the next batch and new masks.

    Args:
      optimizer: from `optimizer.adamw`; its update also gets `finite`, a bool scalar, and `step`.
      seed: of the random streams; step k of a run draws the same numbers however often the run was restarted.
      accumulation: micro-batches A whose gradients are averaged. Sinkhorn balances each micro-batch by itself, so
        accumulation does not enlarge the batch that it sees.
      learning_rate: the optimizer's schedule, reported as the metric `lr`; None leaves it out.

    Returns:
      step(state, frozen, batch) -> (state, metrics of scalars).
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: TrainState, frozen: Tree, batch: Batch) -> tuple[TrainState, Metrics]:
        params = task.constrain(state.params)
        when = seed, state.step, accumulation
        (loss, metrics), grads, memory = loss_and_gradient(task, params, frozen, batch, when, state.memory)
        grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, params, finite=finite, step=state.step)
        updated = optax.apply_updates(params, updates)

        skipped = 1 - finite.astype(jnp.int32)
        counts = {
            "nonfinite_steps": state.nonfinite_steps + skipped,
            "nonfinite_run": (state.nonfinite_run + 1) * skipped,
        }
        rate = {} if learning_rate is None else {"lr": learning_rate(state.step)}
        kept = {
            "params": _chosen(finite, updated, params),
            "opt_state": _chosen(finite, opt_state, state.opt_state),
            "memory": _chosen(finite, memory, state.memory),
        }
        new_state = TrainState(step=state.step + 1, **kept, **counts)
        return new_state, metrics | {"loss": loss, "grad_norm": grad_norm} | counts | rate

    return step


def _chosen(finite: jax.Array, new: Tree, old: Tree) -> Tree:
    """`new` where the step was finite, else `old`; states that choose by themselves (train/optimizer.py) are `new`."""

    def keeps_itself(x):
        return isinstance(x, (AdamState, optax.ScaleByScheduleState))

    def leaf(n, o):
        return n if keeps_itself(n) else jnp.where(finite, n, o)

    return jax.tree.map(leaf, new, old, is_leaf=keeps_itself)


def loss_and_gradient(
    task: Task, params: Tree, frozen: Tree, batch: Batch, when: tuple[int, jax.Array, int], memory: Tree
):
    """Loss, metrics and gradient of a global batch, averaged over its micro-batches.

    Args:
      when: (seed, step, accumulation).
      memory: what the task keeps of past batches; {} for none.

    Returns:
      ((loss, metrics), gradient, memory for the next step).
    """
    seed, step, accumulation = when

    def value_and_grad(rows, memory, moment: Moment):
        remembered = {"memory": memory} if memory else {}
        (loss, metrics), grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, frozen, rows | remembered, seed, moment
        )
        kept = {name: value for name, value in metrics.items() if name != "memory"}
        return ((loss, kept), grads), metrics.get("memory", memory)

    if accumulation == 1:
        result, memory = value_and_grad(batch, memory, step)
        return *result, memory

    def split(x):
        # Micro-batch a takes rows a, a + A, ...: each device keeps its own rows, nothing moves.
        return x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1)

    def add(carry, micro):
        total, memory = carry
        index, rows = micro
        result, memory = value_and_grad(rows, memory, (step, index))
        return (jax.tree.map(jnp.add, total, result), memory), None

    value_and_grad = jax.jit(value_and_grad, inline=True)  # traced once, for the shapes and for the loop
    micro_batches = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], micro_batches)
    shapes, _ = jax.eval_shape(value_and_grad, first, memory, (step, jnp.int32(0)))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (total, memory), _ = jax.lax.scan(add, (zeros, memory), (jnp.arange(accumulation), micro_batches))
    return *jax.tree.map(lambda x: x / accumulation, total), memory
