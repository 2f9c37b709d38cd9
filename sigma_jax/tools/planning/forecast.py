"""Forecast of a compiled step: memory by kind, executed and model FLOPs, collectives, time, and whether it fits.

Time model, printed with the result. Where the rates of a chip's kernels are known (GPUs, `chips.Rates`): the sum over
its kernels (kernels.py). Elsewhere a chip works at 60 % of its roofline, max(FLOPs / peak, bytes / bandwidth) / 0.6. In
both cases it waits for every collective (nothing overlaps). Efficiency = work / (work + waiting).
"""

import math
import re
from typing import Any, NamedTuple

import jax
from jax.extend import core as jex_core

from sigma_jax.runtime.errors import Failed, UserError
from sigma_jax.runtime.sharding import bytes_per_device
from sigma_jax.tools.planning.chips import Chip, collective_seconds
from sigma_jax.tools.planning.hlo import Collective, Module
from sigma_jax.tools.planning.kernels import Kernel, by_kind, by_part, kernels_of
from sigma_jax.train.plan import RunPlan
from sigma_jax.train.program import Program

UTILISATION = 0.6
USABLE = 0.9  # of a GPU's memory, as launch/xla_flags.sh lets JAX have it
MANY_CHIPS = 4096


class DoesNotFit(UserError, RuntimeError):
    """The step needs more memory than a device has; `needed`, `available` in bytes."""

    def __init__(self, needed: float, available: float):
        super().__init__(f"needs {needed / 2**30:.2f} GiB, has {available / 2**30:.2f} GiB")
        self.needed, self.available = needed, available


class Compiled(NamedTuple):
    """A compiled step and what was read from it. Bytes are per device."""

    memory: dict[str, int]  # params, optimizer, teacher, batch, temporaries (activations and scratch), code
    collectives: list[Collective]
    memory_traffic: int  # bytes per step and device
    peak: int = 0  # most bytes alive at once, by the compiler's count; 0 where it gives none
    kernels: tuple[Kernel, ...] = ()

    @property
    def total(self) -> int:
        return sum(self.memory.values())


def compile_program(program: Program, chip: Chip | None = None) -> Compiled:
    """Compiles the real training step.

    Args:
      chip: whose memory must hold it, where the compiler itself does not refuse (GPUs).

    Raises:
      DoesNotFit: more memory is needed than there is.
      Failed: the compiler cannot compile the step for this device.
    """
    try:
        compiled = program.lower().compile()
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise _shortage(error, program) from error
    module = Module(compiled.as_text())
    stats, state = compiled.memory_analysis(), program.abstract_state
    params, optimizer = bytes_per_device(state.params), bytes_per_device(state.opt_state)
    teacher = bytes_per_device(program.abstract_frozen)
    memory = {
        "params": params,
        "optimizer": optimizer,
        "teacher": teacher,
        "batch": max(0, stats.argument_size_in_bytes - params - optimizer - teacher),
        "temporaries": stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    collectives = module.collectives(dict(program.task.mesh.shape))
    kernels = tuple(kernels_of(module)) if chip is not None and chip.rates else ()
    found = Compiled(memory, collectives, module.memory_bytes(), stats.peak_memory_in_bytes, kernels)
    if chip is not None and chip.rates and found.total > usable_memory(chip):
        raise DoesNotFit(found.total, usable_memory(chip))
    return found


def usable_memory(chip: Chip) -> float:
    """Bytes that a step may take: the compiler of a TPU needs little besides, a GPU's runtime more."""
    return (USABLE if chip.rates else 0.98) * chip.memory


def _shortage(error: Exception, program: Program) -> Exception:
    sizes = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    numbers = [float(n) * sizes[u] for n, u in re.findall(r"([0-9.]+)([KMGT])i?B?\b", str(error).split("\n")[0])]
    if "RESOURCE_EXHAUSTED" in str(error) and len(numbers) >= 2:
        return DoesNotFit(numbers[0], numbers[1])
    device = program.task.mesh.devices.flat[0].device_kind
    return Failed(
        f"XLA cannot compile this step for {device}: {str(error).splitlines()[0][:300]}. Try "
        "--config.compute.attention=xla, other sizes, or another version of jax"
    )


def executed_flops(program: Program) -> float:
    """FLOPs of all matrix products of one step on one device, recomputation included."""
    traced = program.step.trace(program.abstract_state, program.abstract_frozen, program.abstract_batch)
    return count_flops(traced.jaxpr.jaxpr, program.task.mesh.size) / program.task.mesh.size


def count_flops(jaxpr: jex_core.Jaxpr, mesh_size: int) -> float:
    """Global FLOPs of a jaxpr: per-device code counts once per device, loop bodies once per round."""
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
            continue
        if name == "pallas_call":  # its jaxpr is one program of many
            total += equation.params["cost_estimate"].flops
            continue
        times = {"scan": equation.params.get("length", 1), "shard_map": mesh_size}.get(name, 1)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                total += times * count_flops(getattr(value, "jaxpr", value), mesh_size)
    return total


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (jex_core.Jaxpr, jex_core.ClosedJaxpr))


def forecast(program: Program, compiled: Compiled, chip: Chip | None) -> dict[str, Any]:
    """The forecast of one compiled step as plain numbers (bytes, FLOPs, seconds)."""
    plan = program.plan
    clips = plan.batch_size * plan.repeats // plan.num_devices
    # the traced step does not show what is inside cuDNN's attention; a GPU's kernels do
    flops = sum(k.times * k.flops for k in compiled.kernels) or executed_flops(program)
    model = sum(program.task.flops().values()) * clips
    result: dict[str, Any] = {
        "clips_per_chip": clips,
        "global_batch": plan.batch_size,
        "chips": plan.num_devices,
        "mesh": plan.mesh,
        "memory_bytes": compiled.memory | {"total": compiled.total},
        "peak_memory_bytes": compiled.peak,
        "activation_bytes": plan.activation_bytes_per_device,
        "flops_per_chip": flops,
        "model_flops_per_chip": model,
        "memory_traffic_per_chip": compiled.memory_traffic,
        "model_traffic_per_chip": clips * sum(program.task.traffic(clips, plan.num_params).values()),
        "collectives": [c._asdict() | {"axes": list(c.axes)} for c in compiled.collectives],
    }
    if chip is not None:
        result |= _timing(plan, compiled, chip, flops, model)
    return result


def _timing(plan: RunPlan, compiled: Compiled, chip: Chip, flops: float, model: float) -> dict[str, Any]:
    compute, memory = flops / chip.flops, compiled.memory_traffic / chip.bandwidth
    work = max(compute, memory) / UTILISATION
    details: dict[str, Any] = {}
    if chip.rates and compiled.kernels:
        kernels, rates = list(compiled.kernels), chip.rates
        details = {"kinds": by_kind(kernels, rates), "parts": by_part(kernels, rates), "rates": rates._asdict()}
        work = sum(details["kinds"].values())

    def network(num_devices: int) -> float:
        def span(c: Collective) -> int:
            over = math.prod(plan.mesh[axis] for axis in c.axes)
            return max(1, num_devices * over // plan.num_devices)

        return sum(collective_seconds(chip, c, span(c)) for c in compiled.collectives if c.axes)

    step = work + network(plan.num_devices)
    return details | {
        "chip": chip.name,
        "chip_memory_bytes": int(chip.memory),
        "seconds": {"compute": compute, "memory": memory, "network": network(plan.num_devices), "step": step},
        "videos_per_s": plan.batch_size / step,
        "clips_per_s": plan.batch_size * plan.repeats / step,
        "clips_per_s_per_chip": plan.batch_size * plan.repeats / step / plan.num_devices,
        "mfu": model / chip.flops / step,
        "efficiency": work / step,
        f"efficiency_at_{MANY_CHIPS}_chips": work / (work + network(MANY_CHIPS)),
        "hours": plan.total_steps * step / 3600,
        "chip_hours": plan.total_steps * step / 3600 * plan.num_devices,
    }
