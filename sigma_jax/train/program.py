"""The jitted update of a task, with shapes and shardings of its arguments; nothing is allocated.

program = build_program(settings, task, plan)
compiled = program.lower().compile()      # the executable of the real run, with its memory_analysis() and as_text()

The task's mesh may consist of devices that this machine lacks (runtime/topologies.py).
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import optax

from sigma_jax.runtime.compilation import CompiledOnce, quick_compilation, step_compilation
from sigma_jax.runtime.random import stream
from sigma_jax.runtime.sharding import batch_sharding, replicated, state_shardings, traced_on, with_shardings
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.base import Batch, Task
from sigma_jax.train.initial_weights import cast_frozen
from sigma_jax.train.optimizer import adamw, with_average
from sigma_jax.train.plan import RunPlan
from sigma_jax.train.schedule import cosine_with_warmup, steps_with_warmup
from sigma_jax.train.settings import OptimizerSettings, TrainSettings
from sigma_jax.train.state import TrainState, initial_params, new_state
from sigma_jax.train.step import train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """What the training loop runs, tools.plan compiles and tools.benchmark times."""

    task: Task
    plan: RunPlan
    abstract_state: TrainState  # shapes and shardings instead of arrays, as in the next two
    abstract_frozen: Params
    abstract_batch: Batch
    init_state: Callable[[], TrainState]
    init_frozen: Callable[[], Params]  # random frozen parameters
    step: CompiledOnce  # (state, frozen, batch) -> (state, metrics); the state is donated

    def lower(self) -> jax.stages.Lowered:
        """The traced update, ready to `compile()`."""
        return self.step.lower(self.abstract_state, self.abstract_frozen, self.abstract_batch)


def build_program(settings: TrainSettings, task: Task, plan: RunPlan) -> Program:
    """The program of a task with an optimizer and a plan."""
    mesh, learning_rate = task.mesh, schedule_of(plan)
    optimizer = build_optimizer(settings.optim, learning_rate, task.trainable)
    clips = plan.micro_batch_per_device * plan.num_devices
    init = traced_on(mesh, functools.partial(fresh_state, task, optimizer, settings.seed, clips))
    shapes = jax.eval_shape(init)
    shardings = state_shardings(mesh, shapes)
    step = train_step(task, optimizer, seed=settings.seed, accumulation=plan.accumulation, learning_rate=learning_rate)

    def frozen():
        return cast_frozen(task.init_frozen(stream(settings.seed, "teacher")), task.compute.dtype)

    jitted = jax.jit(
        traced_on(mesh, step),
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options=step_compilation(mesh.devices.flat[0].platform, task.compute.teacher_fp8),
    )
    frozen_shapes, batch = jax.eval_shape(frozen), task.abstract_batch(plan.batch_size * plan.repeats)
    return Program(
        task=task,
        plan=plan,
        abstract_state=with_shardings(shapes, shardings),
        abstract_frozen=with_shardings(frozen_shapes, jax.tree.map(lambda _: replicated(mesh), frozen_shapes)),
        abstract_batch=with_shardings(batch, jax.tree.map(lambda _: batch_sharding(mesh), batch)),
        init_state=jax.jit(init, out_shardings=shardings, compiler_options=quick_compilation()),
        init_frozen=jax.jit(frozen),
        step=CompiledOnce(jitted),
    )


def schedule_of(plan: RunPlan) -> Callable[[jax.Array], jax.Array]:
    """The learning rate of a plan as a function of the step."""
    if plan.milestones:
        return steps_with_warmup(plan.peak_lr, plan.milestones, plan.milestone_factor, plan.warmup_steps, plan.start_lr)
    return cosine_with_warmup(plan.peak_lr, plan.final_lr, plan.total_steps, plan.warmup_steps, plan.start_lr)


def build_optimizer(
    settings: OptimizerSettings,
    learning_rate: Callable[[jax.Array], jax.Array],
    trainable: Callable[[str], bool],
) -> optax.GradientTransformation:
    """AdamW with the given settings, and an average of the weights if `ema_decay` is set."""
    optimizer = adamw(
        learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
        clip_norm=settings.clip_norm,
        trainable=trainable,
    )
    return with_average(optimizer, settings.ema_decay) if settings.ema_decay else optimizer


def fresh_state(task: Task, optimizer: optax.GradientTransformation, seed: int, clips: int) -> TrainState:
    """First state: random parameters, zero moments, step 0, and the task's empty memory of micro-batches of `clips`."""
    return new_state(initial_params(task, seed), optimizer, task.init_memory(clips))
