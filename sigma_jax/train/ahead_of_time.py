"""The training step compiled for a mesh that need not exist here: no data, no arrays, no hardware.

program = build_program(config, mesh, num_records)
compiled = lower(program).compile()       # the executable of the real run, with its memory_analysis() and as_text()
"""

import difflib
import math
import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import stream
from sigma_jax.runtime.sharding import batch_sharding, whole, with_shardings
from sigma_jax.train.initial_weights import cast_frozen
from sigma_jax.train.plan import RunPlan, resolve_plan
from sigma_jax.train.registry import kind_of
from sigma_jax.train.setup import CompiledStep, build_compute, build_step
from sigma_jax.train.tasks import Task

_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
SHAPES = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}  # slices that one can rent, of chips
CORES = {"v4": 2, "v5p": 2}  # per chip, where a name such as v5p-1024 counts cores


class Program(NamedTuple):
    """What follows from config, mesh and number of records; `frozen` has shapes and shardings only."""

    config: Any
    task: Task
    plan: RunPlan
    step: CompiledStep
    frozen: Any


def build_program(config: Any, mesh: Mesh, num_records: int) -> Program:
    """Plans a run for the platform of `mesh`; raises ValueError for whatever the real run would refuse."""
    task = kind_of(config).task(config, mesh, build_compute(config.compute, mesh.devices.flat[0].platform))
    plan = resolve_plan(config, mesh, task, num_records)
    key = stream(config.seed, "teacher")
    frozen = jax.eval_shape(lambda: cast_frozen(task.init_frozen(key), task.compute.dtype))
    frozen = with_shardings(frozen, jax.tree.map(lambda _: whole(mesh), frozen))
    return Program(config, task, plan, build_step(config, task, plan), frozen)


def abstract_batch(program: Program) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a pre-training batch: uint8 clips.

    Raises:
      ValueError: a task that takes more than clips.
    """
    if program.task.batch_keys != ("video",):
        raise InvalidValue(
            f"task {program.config.task!r} takes {program.task.batch_keys}; only pre-training can be planned"
        )
    model = program.config.model
    shape = (program.plan.batch_size, model.num_frames, model.image_size, model.image_size, 3)
    return {"video": jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=batch_sharding(program.task.mesh))}


def lower(program: Program) -> Any:
    """The traced training step, ready to `compile()`."""
    return program.step.step.lower(program.step.abstract_state, program.frozen, abstract_batch(program))


def topology_devices(name: str, num_slices: int = 1) -> list[Any]:
    """Descriptions of the chips of a TPU topology such as 'v5e:4x4'; needs the libtpu package, no TPU.

    Raises:
      ValueError: an unknown topology, with the nearest known one.
      InvalidValue: libtpu is not installed.
    """
    # What libtpu would otherwise ask a TPU machine for (stderr noise apart, the values do not matter).
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-16"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_MIN_LOG_LEVEL", "3"),
    ):
        os.environ.setdefault(variable, value)
    try:
        import libtpu  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidValue('--topology needs the libtpu package: pip install -e ".[tpu]"') from error
    options: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
    if name.startswith("v4"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as on a real v4
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except (RuntimeError, ValueError) as error:
        raise InvalidValue(
            f"unknown topology {name!r} ({str(error).splitlines()[0][:200]}): the nearest is "
            f"{nearest_topology(name)!r}; write GENERATION:SHAPE in chips, such as v4:4x4x4, v5e:16x16, v5p:8x8x8"
        ) from error


def nearest_topology(name: str) -> str:
    """The topology that a wrong name, or one of Google's such as v5litepod-256, most likely means."""
    generation, _, shape = name.replace("v5litepod", "v5e").replace("-", ":").partition(":")
    generation = difflib.get_close_matches(generation, SHAPES, n=1, cutoff=0)[0]
    chips = math.prod(int(size) for size in re.findall(r"\d+", shape)) or 1
    if "-" in name:
        chips //= CORES.get(generation, 1)
    sizes = {shape: math.prod(map(int, shape.split("x"))) for shape in SHAPES[generation]}
    return f"{generation}:{min(sizes, key=lambda shape: abs(sizes[shape] - chips))}"
