"""Builds everything that the training loop needs from a config.

Only main, this file and the tasks' `from_config` and `resolve` read the config; other code takes typed values. Sharding
and checkpoints are planned on shapes (`jax.eval_shape`), so that every array is created where it will stay.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from sigma_jax.data.identity import identify
from sigma_jax.data.loader import Loader
from sigma_jax.evals.protocol import Evaluator
from sigma_jax.models.compute import Compute
from sigma_jax.models.transformer import REMAT_POLICIES
from sigma_jax.ops import fp8
from sigma_jax.ops.attention import check_backend, cudnn_problem
from sigma_jax.report.run import Trained
from sigma_jax.runtime.config import read_section, recorded
from sigma_jax.runtime.errors import InvalidValue, UserError
from sigma_jax.runtime.sharding import make_mesh, replicated
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.base import Place, Task, task_class
from sigma_jax.train.initial_weights import FROM_SCRATCH, StartFrom, heads_of, initialised, with_teacher
from sigma_jax.train.plan import RunPlan, resolve_plan
from sigma_jax.train.program import Program, build_program
from sigma_jax.train.settings import CheckpointSettings, OptimizerSettings, TrainSettings
from sigma_jax.train.state import TrainState

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class NoAccelerator(UserError, RuntimeError):
    """The config asks for an accelerator and there is none."""


@dataclasses.dataclass(frozen=True)
class Demands:
    """What a config requires of a machine; known without its data.

    needs_accelerator: refuse a CPU unless --platform=cpu. mesh: sizes of the axes data and fsdp. batch_size: videos per
    step. max_batch_per_device: clips. split: folder of the training shards. num_workers: decoding processes per host.
    clips_per_batch: clips in a batch, over all processes. clip_bytes: size of one uint8 clip.
    """

    needs_accelerator: bool
    mesh: tuple[int, int]
    batch_size: int
    max_batch_per_device: int
    split: str
    num_workers: int
    clips_per_batch: int
    clip_bytes: int


@dataclasses.dataclass(frozen=True)
class Run:
    """A planned and prepared run.

    recorded: the resolved config as JSON keeps it (lists for tuples). facts: what weights must agree with, e.g. the
    label map (weights/facts.py). data: identity of the training split (data/identity.py). settings: the trainer's part
    of the config. place: data folder and workdir. checkpoint_dir: folder or bucket of the checkpoints. program: task,
    plan and compiled step. loader: batches of the training split. frozen: the teacher's parameters, {} for none.
    init_state: makes the first state, from `--init` where it is given. evaluators: what is measured, and when.
    """

    recorded: Mapping[str, Any]
    facts: Mapping[str, Any]
    data: Mapping[str, Any]
    settings: TrainSettings
    place: Place
    checkpoint_dir: str | Path
    program: Program
    loader: Loader
    frozen: Params
    init_state: Callable[[], TrainState]
    evaluators: tuple[Evaluator, ...]

    @property
    def task(self) -> Task:
        return self.program.task

    @property
    def plan(self) -> RunPlan:
        return self.program.plan

    @property
    def workdir(self) -> Path:
        return self.place.workdir

    def trained(self, state: TrainState) -> Trained:
        """The parameters of `state` with what a report needs to draw them."""
        return Trained(self.task, state.params, self.frozen, int(state.step), self.settings.seed)

    def meta(self) -> dict:
        """The metadata of a checkpoint: config, plan, heads, class names and identity of the data."""
        plan = dataclasses.asdict(self.plan)
        names = list(self.facts.get("class_names", ()))
        said = {"heads": heads_of(self.task.size), "class_names": names, "data": self.data}
        return {"config": self.recorded, "plan": plan} | said


def build(
    config: ConfigDict,
    workdir: Path,
    data_dir: str,
    *,
    start: StartFrom = FROM_SCRATCH,
    checkpoint_dir: str | Path | None = None,
) -> Run:
    """Plans and prepares a run; nothing is trained yet.

    Args:
      config: as loaded from a file of configs/, with the user's overrides.
      workdir: folder for everything that the run writes.
      data_dir: folder of record shards.
      start: where the first weights and the teacher's come from.
      checkpoint_dir: where checkpoints go; None for workdir/checkpoints.

    Raises:
      InvalidValue: settings contradict each other, the devices or the data.
      UserError: data or weights are missing or do not fit.
    """
    place, settings = Place(data_dir, workdir), train_settings(config)
    config = resolve(config, data_dir)
    task, frozen = with_teacher(build_task(config), start, settings.seed)
    if settings.batch_size % jax.process_count():
        raise InvalidValue(
            f"batch_size={settings.batch_size} does not divide over {jax.process_count()} processes: "
            "every process must read the same number of clips"
        )
    loader = task.open_data(place, settings.batch_size, settings.seed)
    program = build_program(settings, task, resolve_plan(settings, task, loader.num_records))
    facts = task.facts(data_dir)
    return Run(
        recorded=recorded(config),
        data=identify(loader.source),
        settings=settings,
        place=place,
        checkpoint_dir=checkpoint_dir or workdir / "checkpoints",
        program=program,
        loader=loader,
        frozen=jax.tree.map(lambda x: jax.device_put(x, replicated(task.mesh)), frozen),
        init_state=initialised(program.init_state, task, start.init, facts) if start.init else program.init_state,
        facts=facts,
        evaluators=task.evaluators(place),
    )


def resolve(config: ConfigDict, data_dir: str) -> ConfigDict:
    """The config with the settings filled in that come from the data, e.g. the number of classes."""
    return task_class(config.task).resolve(config, data_dir)


def demands(config: ConfigDict) -> Demands:
    """What a config, resolved or not, requires of a machine. Raises InvalidValue for unknown names in it."""
    if config.data.get("num_classes", 0) is None:
        config = ConfigDict(config.to_dict())
        config.data.num_classes = 1  # any number: the clips are the same
    compute = build_compute(config.compute)
    task = task_class(config.task).from_config(config, make_mesh(devices=jax.devices()[:1]), compute)
    return Demands(
        config.needs_accelerator,
        (config.mesh.data, config.mesh.fsdp),
        config.batch_size,
        config.max_batch_per_device,
        config.data.split,
        config.data.num_workers,
        config.batch_size * task.clips_per_video,
        math.prod(task.abstract_batch(1)["video"].shape),
    )


def build_task(config: ConfigDict, devices: list[jax.Device] | None = None) -> Task:
    """The task of a resolved config on a mesh of `devices` (None: all devices of all processes)."""
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    device = mesh.devices.flat[0]
    compute = build_compute(config.compute, device.platform)
    if teacher_in_fp8(config.compute, compute.dtype, device):
        compute = dataclasses.replace(compute, teacher_fp8=True)
    return task_class(config.task).from_config(config, mesh, compute)


def plan_program(config: ConfigDict, num_records: int, devices: list[jax.Device] | None = None) -> Program:
    """The program of a run on `num_records` videos, without its data. Raises InvalidValue where the run would."""
    settings, task = train_settings(config), build_task(config, devices)
    return build_program(settings, task, resolve_plan(settings, task, num_records))


def train_settings(config: ConfigDict) -> TrainSettings:
    """The trainer's part of a config. Raises InvalidValue for a batch without clips."""
    if config.batch_size < 1:
        raise InvalidValue(f"batch_size={config.batch_size}: expected at least 1 clip a step")
    return read_section(
        TrainSettings,
        config,
        optim=read_section(OptimizerSettings, config.optim),
        checkpoint=read_section(CheckpointSettings, config.checkpoint),
        max_nonfinite_run=config.health.max_nonfinite_run,
    )


def build_compute(section: ConfigDict, platform: str | None = None) -> Compute:
    """Number types and implementations for a platform (None: JAX's default). Raises InvalidValue for unknown names."""
    platform = platform or jax.default_backend()
    dtype = number_type(section.dtype, platform)
    remat = section.remat if section.remat != "auto" else ("cheap" if platform == "cpu" else "none")
    if remat not in REMAT_POLICIES:
        raise InvalidValue(
            f"compute.remat {section.remat!r} is unknown: choose one of auto, {', '.join(REMAT_POLICIES)}"
        )
    backend = usable_backend(section.attention, platform)
    return Compute(dtype, backend, remat, resolve_unroll(section.unroll, platform))


def number_type(name: str, platform: str | None = None) -> jnp.dtype:
    """The type of a config's compute.dtype; auto is float32 on CPU, else bfloat16. Raises InvalidValue if unknown."""
    chosen = name if name != "auto" else ("float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16")
    if chosen not in DTYPES:
        raise InvalidValue(f"compute.dtype {name!r} is unknown: choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[chosen]


def teacher_in_fp8(section: ConfigDict, dtype: jnp.dtype, device: jax.Device) -> bool:
    """Whether the teacher's products are of 8-bit numbers (models/fp8.py), by compute.teacher_dtype.

    Raises:
      InvalidValue: an unknown type, or 8 bits on a device that does not multiply such numbers, or beside fp32.
    """
    asked, in_fp8 = section.get("teacher_dtype", "auto"), "float8_e4m3fn"
    if asked not in ("auto", in_fp8):
        raise InvalidValue(f"compute.teacher_dtype {asked!r} is unknown: choose auto (as compute.dtype) or {in_fp8}")
    if asked == "auto":
        return False
    capability = float(getattr(device, "compute_capability", 0.0)) if device.platform == "gpu" else 0.0
    if capability < fp8.OLDEST_GPU:
        raise InvalidValue(
            f"compute.teacher_dtype={in_fp8} needs an NVIDIA GPU of compute capability {fp8.OLDEST_GPU} (H100, H200, "
            f"L40), and this is {device.device_kind}: use auto"
        )
    if dtype == jnp.float32:
        raise InvalidValue(f"compute.teacher_dtype={in_fp8} goes with compute.dtype=bfloat16, not with float32")
    return True


def usable_backend(asked: str, platform: str) -> str:
    """The attention backend for a platform; 'auto' takes 'xla' with a warning where cuDNN cannot be used.

    Raises:
      InvalidValue: the backend is unknown, of another platform, or is cuDNN and cannot be used.
    """
    backend = check_backend(asked, platform)
    problem = cudnn_problem() if backend == "cudnn" else ""
    if problem and asked == "cudnn":
        raise InvalidValue(f"compute.attention=cudnn cannot be used: {problem}; choose auto or xla")
    if problem:
        logging.warning(
            "cuDNN's attention cannot be used: %s. compute.attention=xla is used instead; on an H100 a step took 1.85 "
            "times as long with it, and 2.6 times the memory (launch/BENCHMARKS.md)",
            problem,
        )
        return "xla"
    return backend


def resolve_unroll(unroll: str | int, platform: str) -> int:
    """Transformer blocks per scan step; 0 for all. 'auto' is 0 on GPUs, where scan copies kept activations; else 1.

    Raises:
      InvalidValue: neither 'auto' nor a number from 0 up.
    """
    if unroll == "auto":
        return 0 if platform == "gpu" else 1
    if not str(unroll).isdigit():
        raise InvalidValue(f"compute.unroll {unroll!r} is unknown: choose auto, 0 (all blocks) or a number of blocks")
    return int(unroll)


def require_platform(needs_accelerator: bool, platform: str | None) -> None:
    """Refuses to train on a CPU by accident.

    Raises:
      NoAccelerator: the config needs an accelerator, JAX sees none, and the user did not say --platform=cpu.
    """
    if needs_accelerator and jax.default_backend() == "cpu" and platform != "cpu":
        raise NoAccelerator(
            "this config needs a GPU or TPU, but JAX sees only CPUs. Check the installation "
            '(pip install -e ".[cuda]" or ".[tpu]"), or accept the CPU with --platform=cpu'
        )
