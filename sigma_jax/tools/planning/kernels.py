"""The kernels of a compiled step: bytes, FLOPs, and the part of the model that each belongs to.

Time of a kernel: the larger of bytes / memory bandwidth and FLOPs / rate of its kind; each launch adds a constant
time.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from sigma_jax.tools.planning.chips import Rates
from sigma_jax.tools.planning.hlo import Instruction, Module

PARTS = (  # of an operation's name in the program; first match wins
    ("teacher", r"DinoVit"),
    ("encoder backward", r"transpose\(jvp\(\w+\)\)/encoder"),
    ("decoder backward", r"transpose\(jvp\(\w+\)\)/decoder"),
    ("projection backward", r"transpose\(jvp\(PretrainModel\).*project"),
    ("encoder forward", r"jvp\(\w+\)/encoder"),
    ("decoder forward", r"jvp\(\w+\)/decoder"),
    ("projection forward", r"PretrainModel.*project"),
    ("mask drawing", r"threefry|_uniform|sort|_shuffle|argsort"),
    ("objective backward", r"transpose\(jvp\(\)\)|transpose\(jvp\(shard_map"),
    ("objective and targets", r"jvp\(\)|shard_map"),
    ("optimizer and rest", r"."),
)
UNNAMED = "unnamed"
_DIMS = re.compile(r"[a-z]+[0-9a-z]*\[([0-9,]*)\]")


class Kernel(NamedTuple):
    """One instruction of a compiled step that runs on the device; numbers are of one execution."""

    name: str
    part: str
    kind: str  # products, fp8 products, attention or memory
    times: int  # executions per step
    num_bytes: float
    flops: float

    def seconds(self, rates: Rates) -> float:
        """Seconds of all executions in a step."""
        rate = {"attention": rates.attention, "fp8 products": rates.fp8_products}.get(self.kind, rates.products)
        return self.times * (max(self.num_bytes / rates.bandwidth, self.flops / rate) + rates.launch)


def part_of(op_name: str) -> str:
    """The part of the model that an operation belongs to, by its name in the program."""
    return next((part for part, pattern in PARTS if re.search(pattern, op_name)), UNNAMED)


def kernels_of(module: Module) -> Iterator[Kernel]:
    """All kernels of a step."""
    for instruction, computation, times in module.work():
        flops, kind = _flops(module, instruction, computation)
        num_bytes = module.traffic(instruction, computation)
        yield Kernel(instruction.name, part_of(_op_name(module, instruction)), kind, times, num_bytes, flops)


def by_part(kernels: list[Kernel], rates: Rates) -> list[dict[str, float | str]]:
    """Rows of {part, seconds, bytes, flops, launches}, longest first."""
    rows: dict[str, dict[str, float | str]] = {}
    for kernel in kernels:
        row = rows.setdefault(kernel.part, {"part": kernel.part, "seconds": 0.0, "bytes": 0, "flops": 0, "launches": 0})
        row["seconds"] += kernel.seconds(rates)
        row["bytes"] += int(kernel.times * kernel.num_bytes)
        row["flops"] += int(kernel.times * kernel.flops)
        row["launches"] += kernel.times
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def by_kind(kernels: list[Kernel], rates: Rates) -> dict[str, float]:
    """Seconds of products (of 8-bit numbers by themselves), attention, passes over memory, and launches of all."""
    found = {"products": 0.0, "fp8 products": 0.0, "attention": 0.0, "memory": 0.0, "launches": 0.0}
    for kernel in kernels:
        launches = kernel.times * rates.launch
        found[kernel.kind] += kernel.seconds(rates) - launches
        found["launches"] += launches
    return {kind: seconds for kind, seconds in found.items() if seconds or kind != "fp8 products"}


def _op_name(module: Module, instruction: Instruction) -> str:
    """The operation's name; of a fusion without one, that of its first operation that has one."""
    found = re.search(r'op_name="([^"]*)"', instruction.attributes)
    if found or not instruction.opcode.startswith("fusion"):
        return found.group(1) if found else ""
    inside = (re.search(r'op_name="([^"]*)"', i.attributes) for i in _called(module, instruction).values())
    return next((name.group(1) for name in inside if name), "")


def _called(module: Module, fusion: Instruction) -> dict[str, Instruction]:
    return module.computations[re.search(r"calls=%([\w.-]+)", fusion.attributes).group(1)]


def _dims(shape: str) -> list[int]:
    return [int(d) for d in _DIMS.search(shape).group(1).split(",") if d]


def _flops(module: Module, instruction: Instruction, computation: dict[str, Instruction]) -> tuple[float, str]:
    """(FLOPs of its products, kind of the kernel)."""
    if instruction.opcode == "dot":
        found = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", instruction.attributes)
        return _product_flops(instruction, computation, found.group(1) if found else ""), "products"
    if instruction.opcode.startswith("fusion"):
        inner = _called(module, instruction)
        total = sum(_flops(module, i, inner)[0] for i in inner.values() if i.opcode in ("dot", "fusion"))
        return total, "products" if total else "memory"
    if instruction.opcode == "custom-call" and "fmhaSoftmax" in instruction.attributes:
        return _attention_flops(instruction, computation), "attention"
    if instruction.opcode == "custom-call" and "gemm" in instruction.attributes + instruction.name:
        found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)
        kind = "fp8 products" if "matmul$f8" in instruction.attributes else "products"
        contracted = re.sub(r'[" ]', "", found.group(1)) if found else ""
        return _product_flops(instruction, computation, contracted), kind
    return 0.0, "memory"


def _product_flops(instruction: Instruction, computation: dict[str, Instruction], contracted: str) -> float:
    left = computation.get(instruction.operands[0])
    if left is None:
        return 0.0
    sizes = _dims(left.shape)
    return 2.0 * math.prod(_dims(instruction.shape)) * math.prod(sizes[int(d)] for d in contracted.split(",") if d)


def _attention_flops(instruction: Instruction, computation: dict[str, Instruction]) -> float:
    """Operands are [B N H d] or [B H N d]; tokens are the larger of the middle dimensions."""
    q, k = (_dims(computation[name].shape) for name in instruction.operands[:2])
    forward = 4.0 * q[0] * min(q[1:3]) * max(q[1:3]) * max(k[1:3]) * q[3]
    return 2.5 * forward if "Backward" in instruction.attributes else forward
