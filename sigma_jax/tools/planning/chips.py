"""What a chip can do, from its vendor's data sheet, and how long collectives take on its network.

Network model: an all-reduce of n bytes takes 2 n / (link x axes) inside a slice (bidirectional rings, one per axis of
the torus), plus 2 n / (data centre network per slice) when it spans slices, plus a latency per hop; gathers and
scatters take half. All numbers are from data sheets, not measured.
"""

from typing import NamedTuple

from sigma_jax.tools.planning.hlo import Collective

HOP_SECONDS = 2e-6  # one hop there and back on the chips' own network
LAUNCH_SECONDS = 5e-6
SLICE_HOP_SECONDS = 60e-6


class Rates(NamedTuple):
    """What kernels reach on a device, per second: the constants of the forecast by kernels."""

    products: float  # FLOPs of matrix products
    fp8_products: float  # of those of 8-bit numbers
    attention: float  # FLOPs of fused attention
    bandwidth: float  # bytes
    launch: float  # seconds between two kernels


class Chip(NamedTuple):
    """Data sheet of one device."""

    name: str
    flops: float  # dense bf16, per second
    memory: float  # bytes
    bandwidth: float  # of the memory, bytes per second
    link: float  # bytes per second of one network axis, both directions
    axes: int  # of the torus
    slice_size: int  # chips that share the fast network
    between: float  # bytes per second of a whole slice to the others
    rates: Rates | None = None


GIB = 2**30
# Of a profile of the step on an H100 (launch/BENCHMARKS.md). An H200 is the same chip with faster memory: not measured.
# Nor are products in 8 bits: half of the data sheet's peak, where those in 16 bits reach 59 %.
H100 = Rates(products=585e12, fp8_products=990e12, attention=275e12, bandwidth=2.91e12, launch=1.5e-6)
H200 = H100._replace(bandwidth=4.2e12)
# Part of jax's device_kind: chip. TPU sheets: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; GPUs: NVIDIA's.
CHIPS = (
    ("TPU v4", Chip("TPU v4", 275e12, 32 * GIB, 1.2e12, 9e10, 3, 4096, 1e12)),
    ("TPU v5 lite", Chip("TPU v5e", 197e12, 16 * GIB, 0.81e12, 9e10, 2, 256, 800e9)),
    ("TPU v5e", Chip("TPU v5e", 197e12, 16 * GIB, 0.81e12, 9e10, 2, 256, 800e9)),
    ("TPU v5", Chip("TPU v5p", 459e12, 95 * GIB, 2.77e12, 1.8e11, 3, 8960, 1e12)),
    ("TPU v6", Chip("TPU v6e", 918e12, 32 * GIB, 1.64e12, 1.8e11, 2, 256, 1.6e12)),
    ("H200", Chip("H200", 989e12, 151397597184, 4.8e12, 4.5e11, 1, 8, 4e11, H200)),
    ("H100", Chip("H100", 989e12, 84942979072, 3.35e12, 4.5e11, 1, 8, 4e11, H100)),
    ("A100", Chip("A100", 312e12, 80e9, 2.0e12, 3e11, 1, 8, 2e11)),
)


def find_chip(device_kind: str) -> Chip | None:
    """The data sheet of a device by its `device_kind`, None where there is none (CPUs)."""
    return next((chip for part, chip in CHIPS if part in device_kind), None)


def collective_seconds(chip: Chip, collective: Collective, num_devices: int) -> float:
    """Time of all executions of a collective per step, as if the mesh axes it spans held `num_devices` devices."""
    inside = min(num_devices, chip.slice_size)
    rounds = 2 if collective.kind == "all-reduce" else 1
    seconds = rounds * collective.num_bytes / (chip.link * chip.axes)
    side = max(1, round(inside ** (1 / chip.axes)) // 2)
    latency = HOP_SECONDS * chip.axes * side + LAUNCH_SECONDS
    if num_devices > chip.slice_size:
        seconds += rounds * collective.num_bytes / chip.between
        latency += SLICE_HOP_SECONDS
    return collective.times * (seconds + latency)
