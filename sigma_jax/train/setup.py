"""From a config to everything the loop needs: mesh, task, plan, data, optimizer, compiled step, state.

Shapes come before arrays: sharding and checkpoints are planned on `jax.eval_shape`, then buffers are made in place.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sigma_jax.data.loader import Loader
from sigma_jax.models.pretrain import Compute
from sigma_jax.models.transformer import REMAT_POLICIES
from sigma_jax.ops.attention import check_backend
from sigma_jax.runtime.compilation import CompiledOnce, quick_compilation
from sigma_jax.runtime.config import to_json
from sigma_jax.runtime.errors import InvalidValue, UserError
from sigma_jax.runtime.random import stream
from sigma_jax.runtime.sharding import make_mesh, state_shardings, traced_on, whole, with_shardings
from sigma_jax.train.evaluation import Scheduled
from sigma_jax.train.initial_weights import InitFrom, heads_of, initialised, with_teacher
from sigma_jax.train.optimizer import adamw, with_average
from sigma_jax.train.plan import RunPlan, resolve_plan
from sigma_jax.train.registry import kind_of
from sigma_jax.train.schedule import cosine_with_warmup
from sigma_jax.train.state import TrainState, new_state
from sigma_jax.train.step import Step, train_step
from sigma_jax.train.tasks import Task

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class NoAccelerator(UserError, RuntimeError):
    """The config asks for an accelerator and there is none."""


@dataclasses.dataclass
class Run:
    """What the loop works with. `abstract_state` has shapes and shardings only."""

    config: Any
    workdir: Path
    data_dir: str
    task: Task
    mesh: jax.sharding.Mesh
    plan: RunPlan
    loader: Loader
    frozen: Any
    abstract_state: TrainState
    init_state: Any  # () -> TrainState
    step: Step
    evaluators: tuple[Scheduled, ...] = ()
    checkpoint_dir: str | Path = ""  # default: workdir/checkpoints

    def __post_init__(self):
        self.checkpoint_dir = self.checkpoint_dir or self.workdir / "checkpoints"

    def meta(self) -> dict:
        """What a checkpoint says about its run."""
        config = json.loads(to_json(self.config))
        return {"config": config, "plan": dataclasses.asdict(self.plan), "heads": heads_of(self.task.size)}


@dataclasses.dataclass
class CompiledStep:
    """The jitted update with what it works on: shapes and shardings, a maker of the first state."""

    abstract_state: TrainState
    init_state: Any  # () -> TrainState
    step: Step


def build_compute(config: Any, platform: str | None = None) -> Compute:
    """Types and implementations for a platform (default: the one at hand); unknown names are errors here."""
    platform = platform or jax.default_backend()
    name = config.dtype if config.dtype != "auto" else ("float32" if platform == "cpu" else "bfloat16")
    if name not in DTYPES:
        raise InvalidValue(f"compute.dtype {config.dtype!r} is unknown: choose one of auto, {', '.join(DTYPES)}")
    remat = config.remat if config.remat != "auto" else ("cheap" if platform == "cpu" else "none")
    if remat not in REMAT_POLICIES:
        raise InvalidValue(
            f"compute.remat {config.remat!r} is unknown: choose one of auto, {', '.join(REMAT_POLICIES)}"
        )
    return Compute(DTYPES[name], check_backend(config.attention, platform), remat, config.unroll)


def require_platform(config: Any, platform: str | None) -> None:
    """Stops a run that would crawl along on a CPU unnoticed.

    Raises:
      NoAccelerator: the config needs one, JAX sees none, and the user did not say --platform=cpu.
    """
    if config.needs_accelerator and jax.default_backend() == "cpu" and platform != "cpu":
        raise NoAccelerator(
            "this config needs a GPU or TPU, but JAX sees only CPUs. Check the installation "
            '(pip install -e ".[cuda]" or ".[tpu]"), or accept the CPU with --platform=cpu'
        )


def build(
    config: Any,
    workdir: Path,
    data_dir: str,
    *,
    teacher: str | None = None,
    random_teacher: bool = False,
    init_from: InitFrom | None = None,
) -> Run:
    """Plans and prepares a run; nothing is trained yet.

    Args:
      teacher: weights of the frozen teacher, in any format.
      init_from: what parameters start from, None for random numbers.
    """
    config = kind_of(config).resolve(config, data_dir)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    task = kind_of(config).task(config, mesh, build_compute(config.compute))
    task, frozen = with_teacher(task, teacher, random_teacher, config.seed)
    loader = open_data(config, data_dir, workdir)
    plan = resolve_plan(config, mesh, task, loader.num_records)
    frozen = jax.tree.map(lambda x: jax.device_put(x, whole(mesh)), frozen)
    compiled = build_step(config, task, plan)
    run = Run(
        config=config,
        workdir=workdir,
        data_dir=data_dir,
        task=task,
        mesh=mesh,
        plan=plan,
        loader=loader,
        frozen=frozen,
        abstract_state=compiled.abstract_state,
        init_state=initialised(compiled.init_state, task, init_from) if init_from else compiled.init_state,
        step=compiled.step,
    )
    run.evaluators = kind_of(config).evaluators(run)
    return run


def build_step(config: Any, task: Task, plan: RunPlan) -> CompiledStep:
    """Optimizer, sharded state and jitted update of a plan; needs no data, allocates nothing."""
    lengths = plan.total_steps, plan.warmup_steps
    learning_rate = cosine_with_warmup(plan.peak_lr, plan.final_lr, *lengths, plan.start_lr)
    optimizer = build_optimizer(config.optim, learning_rate, task.trainable)
    clips = plan.micro_batch_per_device * plan.num_devices
    init = traced_on(task.mesh, functools.partial(fresh_state, task, optimizer, config.seed, clips))
    shapes = jax.eval_shape(init)
    shardings = state_shardings(task.mesh, shapes)
    step = train_step(task, optimizer, seed=config.seed, accumulation=plan.accumulation, learning_rate=learning_rate)
    return CompiledStep(
        abstract_state=with_shardings(shapes, shardings),
        init_state=jax.jit(init, out_shardings=shardings, compiler_options=quick_compilation()),
        step=CompiledOnce(jax.jit(traced_on(task.mesh, step), donate_argnums=0, out_shardings=(shardings, None))),
    )


def build_optimizer(optim: Any, learning_rate: Any, trainable: Any) -> optax.GradientTransformation:
    """AdamW as the config has it, with averaged weights beside it if it asks for them."""
    optimizer = adamw(
        learning_rate,
        betas=tuple(optim.betas),
        weight_decay=optim.weight_decay,
        layer_decay=optim.layer_decay,
        clip_norm=optim.clip_norm,
        trainable=trainable,
    )
    return with_average(optimizer, optim.ema_decay) if optim.ema_decay else optimizer


def fresh_state(task: Task, optimizer: optax.GradientTransformation, seed: int, clips: int) -> TrainState:
    """Parameters drawn from the seed, zero moments, step 0, no memory of batches (of `clips` clips)."""
    return new_state(task.init(stream(seed, "init")), optimizer, task.init_memory(clips))


def open_data(config: Any, data_dir: str, workdir: Path) -> Loader:
    """The training input of this process."""
    if config.batch_size % jax.process_count():
        raise InvalidValue(
            f"batch_size={config.batch_size} does not divide over {jax.process_count()} processes: "
            "every process must read the same number of clips"
        )
    return kind_of(config).data(config, data_dir, workdir)
