"""Reads a compiled program's text (HLO): collectives and memory traffic, loop bodies counted once per iteration.

XLA's own cost analysis counts the body of a loop once; the step runs its blocks and Sinkhorn sweeps in loops, so the
counts here follow the call graph from the entry and multiply by trip counts (the constant that a loop compares with).
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1, "s4": 0.5, "u4": 0.5}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
NO_TRAFFIC = frozenset(
    ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "copy-done")
)
SLICES = ("dynamic-slice", "slice", "gather")
CALLS = ("call", "conditional", "async-start")  # what they do is in the computations that they name

_SHAPE = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.-]+)")


class Instruction(NamedTuple):
    """One line: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    arguments: str  # text between the parentheses
    is_root: bool


class Collective(NamedTuple):
    """A collective operation of the step."""

    kind: str  # all-reduce, ...
    num_bytes: int  # of one execution, per device
    times: int  # executions per step
    axes: tuple[str, ...]  # mesh axes it runs over
    source: str  # where in the program


class Module:
    """A parsed HLO module."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current = None
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith(" ") and "->" in line:
                name = _NAME.search(line).group(1)
                current = self.computations[name] = {}
                self.entry = name if line.startswith("ENTRY") else self.entry
            elif current is not None and " = " in line:
                instruction = _parse(line)
                current[instruction.name] = instruction

    def runs(self) -> list[tuple[str, int]]:
        """(computation, executions per step) of the entry, loop bodies, called and conditional computations."""
        found, waiting = [], [(self.entry, 1)]
        while waiting:
            name, times = waiting.pop()
            found.append((name, times))
            for instruction in self.computations[name].values():
                if instruction.opcode == "while":
                    body = _attribute(instruction, "body")
                    waiting.append((body, times * self._trips(instruction)))
                elif instruction.opcode in CALLS:
                    names = _NAME.findall(instruction.attributes)
                    waiting += [(other, times) for other in names if other in self.computations]
        return found

    def _trips(self, loop: Instruction) -> int:
        known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        condition = self.computations[_attribute(loop, "condition")].values()
        bounds = [int(i.arguments) for i in condition if i.opcode == "constant" and i.arguments.isdigit()]
        return max(bounds, default=1)

    def collectives(self, mesh_shape: dict[str, int]) -> list[Collective]:
        """All collectives of one step, each with its bytes and the mesh axes it runs over."""
        found = []
        for name, times in self.runs():
            computation = self.computations[name]
            for instruction in computation.values():
                kind = next((k for k in COLLECTIVES if instruction.opcode in (k, f"{k}-start")), None)
                if kind is None:
                    continue
                moved = max(
                    shape_bytes(instruction.shape) / (2 if instruction.opcode.endswith("start") else 1),
                    sum(shape_bytes(computation[o].shape) for o in instruction.operands if o in computation),
                )
                axes = group_axes(instruction.attributes, mesh_shape)
                source = re.search(r'op_name="([^"]*)"', instruction.attributes)
                found.append(Collective(kind, int(moved), times, axes, source.group(1) if source else ""))
        return sorted(found, key=lambda c: -c.num_bytes * c.times)

    def memory_bytes(self) -> int:
        """Bytes read from and written to the device's main memory in one step (on-chip memory does not count)."""
        return int(sum(times * self.traffic(i, operations) for i, operations, times in self.work()))

    def work(self) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
        """(instruction, the computation it stands in, executions per step) of all that moves bytes."""
        for name, times in self.runs():
            computation = self.computations[name]
            for instruction in computation.values():
                idle = instruction.opcode in NO_TRAFFIC or instruction.opcode in ("while", *CALLS)
                if not idle and not instruction.opcode.endswith(("-done", "-update")):
                    yield instruction, computation, times

    def traffic(self, instruction: Instruction, computation: dict[str, Instruction]) -> float:
        """Bytes of one execution of an instruction."""
        shapes = [computation[o].shape if o in computation else "" for o in instruction.operands]
        if instruction.opcode == "slice-start":
            source, *_, result, _ = _SHAPE.findall(instruction.shape)  # ((sources), result, context)
            ends = [layout for _, _, layout in (source, result)]
            return _bytes(*result[:2]) * sum("S(1)" not in layout for layout in ends)
        if instruction.opcode in ("copy-start", *SLICES):
            return shape_bytes(instruction.shape, on_chip=False) * (1 if "copy" in instruction.opcode else 2)
        if instruction.opcode == "dynamic-update-slice":
            return 2 * shape_bytes(shapes[1], on_chip=False)
        if instruction.opcode in ("fusion", "fusion-start"):
            return self._fusion_traffic(instruction, shapes)
        return sum(shape_bytes(shape, on_chip=False) for shape in (instruction.shape, *shapes))

    def _fusion_traffic(self, fusion: Instruction, shapes: list[str]) -> float:
        """Operands and results of a fusion; of arrays that it only slices or updates in place, that part only."""
        name = _attribute(fusion, "calls")
        total = self._written(name)
        for parameter in (i for i in self.computations[name].values() if i.opcode == "parameter"):
            number = int(parameter.arguments)
            shape = shapes[number] if number < len(shapes) else parameter.shape
            if "S(1)" not in shape:
                total += self._read(name, number, shape_bytes(shape, on_chip=False))
        return total

    def _read(self, name: str, number: int, whole: float) -> float:
        """Bytes that a fused computation, and the fusions inside it, read of parameter `number` of `whole` bytes."""
        same, total = set(), 0.0  # names of the parameter; bitcasts are the array itself
        for use in self.computations[name].values():
            itself = use.opcode == "parameter" and int(use.arguments) == number
            if itself or (use.opcode == "bitcast" and use.operands[0] in same):
                same.add(use.name)
            else:
                for place in (place for place, operand in enumerate(use.operands) if operand in same):
                    if use.opcode == "fusion":
                        total += self._read(_attribute(use, "calls"), place, whole)
                    elif use.opcode in SLICES and place == 0:
                        total += shape_bytes(use.shape)
                    elif use.opcode != "dynamic-update-slice" or place > 0:
                        return whole
        return min(total, whole)

    def _written(self, name: str) -> float:
        """Bytes that a fused computation writes to main memory; of an array updated in place, the update."""
        inner = self.computations[name]
        root = next(i for i in inner.values() if i.is_root)
        total = 0.0
        for operand in root.operands if root.opcode == "tuple" else [root.name]:
            result = inner[operand]
            while result.opcode == "bitcast" and result.operands[0] in inner:
                result = inner[result.operands[0]]
            if "S(1)" in result.shape:
                continue
            if result.opcode == "fusion":
                total += self._written(_attribute(result, "calls"))
            else:
                updates = result.opcode == "dynamic-update-slice"
                total += shape_bytes(inner[result.operands[1]].shape if updates else result.shape)
        return total


def shape_bytes(shape: str, on_chip: bool = True) -> float:
    """Bytes of `f32[8,128]{...}` or a tuple of such; without `on_chip` only those in the device's main memory."""
    total = 0.0
    for kind, dims, layout in _SHAPE.findall(shape):
        if on_chip or "S(1)" not in layout:
            total += _bytes(kind, dims)
    return total


def _bytes(kind: str, dims: str) -> float:
    return BYTES.get(kind, 0) * math.prod(int(d) for d in dims.split(",") if d)


def group_axes(attributes: str, mesh_shape: dict[str, int]) -> tuple[str, ...]:
    """Mesh axes along which the members of the first replica group differ; devices are numbered in mesh order."""
    sizes = list(mesh_shape.values())
    members = _first_group(attributes, math.prod(sizes))
    places = []
    for device in members:
        place = []
        for size in reversed(sizes):
            device, index = divmod(device, size)
            place.insert(0, index)
        places.append(place)
    return tuple(name for i, name in enumerate(mesh_shape) if len({place[i] for place in places}) > 1)


def _first_group(attributes: str, num_devices: int) -> list[int]:
    listed = re.search(r"replica_groups=\{\{([0-9,]*)\}", attributes)
    if listed:
        return [int(d) for d in listed.group(1).split(",")]
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?", attributes)
    if iota:
        return _iota(iota.group(3), iota.group(4))[: int(iota.group(2))]
    ids = r"(?:, device_ids=\(\[([0-9,]+)\](?:T\(([0-9,]+)\))?\))?"
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]" + ids + r" ?\{([^}]*)\}", attributes)
    if named:
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named.group(1))}
        varying = re.findall(r"'([^']+)'", named.group(4))
        names = list(axes)
        order = [i for i, n in enumerate(names) if n not in varying] + [names.index(n) for n in varying]
        places = _transposed(list(axes.values()), order)[: math.prod(axes[n] for n in varying)]
        devices = _iota(named.group(2), named.group(3)) if named.group(2) else list(range(num_devices))
        return [devices[place] for place in places]
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes)
    return [int(pairs.group(1)), int(pairs.group(2))] if pairs else list(range(num_devices))


def _iota(shape: str, permutation: str | None) -> list[int]:
    """ "2,4" and "1,0" -> device numbers 0..7, laid out 2 x 4, transposed, flattened."""
    dims = [int(d) for d in shape.split(",")]
    order = [int(d) for d in permutation.split(",")] if permutation else list(range(len(dims)))
    return _transposed(dims, order)


def _transposed(dims: list[int], order: list[int]) -> list[int]:
    """0, 1, 2, ... laid out as `dims`, read with its dimensions in another order."""
    strides = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
    values = [0]
    for axis in order:
        values = [v + strides[axis] * i for v in values for i in range(dims[axis])]
    return values


def _parse(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    is_root = left.startswith("ROOT ")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, rest = right[:end], right[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    arguments = rest[len(opcode) + 1 : close]
    name = left.removeprefix("ROOT ").lstrip("%")
    return Instruction(name, shape, opcode, tuple(_NAME.findall(arguments)), rest[close + 1 :], arguments, is_root)


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def _attribute(instruction: Instruction, key: str) -> str:
    return re.search(rf"{key}=%([\w.-]+)", instruction.attributes).group(1)
