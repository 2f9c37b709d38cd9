"""The training step compiled for a mesh that need not exist here: no data, no arrays, no hardware.

program = build_program(config, mesh, num_records)
compiled = lower(program).compile()       # the executable of the real run, with its memory_analysis() and as_text()
"""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from sigma_jax.train.initial_weights import cast_frozen
from sigma_jax.train.plan import RunPlan, resolve_plan
from sigma_jax.train.registry import kind_of
from sigma_jax.train.setup import CompiledStep, build_compute, build_step
from sigma_jax.train.sharding import batch_sharding, whole, with_shardings
from sigma_jax.train.state import stream
from sigma_jax.train.tasks import Task


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
        raise ValueError(
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
      ValueError: an unknown topology, with examples of known ones.
      ModuleNotFoundError: libtpu is not installed.
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
        raise ModuleNotFoundError('--topology needs the libtpu package: pip install -e ".[tpu]"') from error
    options: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
    if name.startswith("v4"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as on a real v4
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"unknown topology {name!r} ({str(error).splitlines()[0][:200]}): write GENERATION:SHAPE, such as "
            "v4:4x4x4, v5e:4x4, v5e:16x16, v5p:8x8x8, v6e:16x16"
        ) from error
