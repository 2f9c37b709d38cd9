"""TPU topologies that need not exist here: devices to compile a program for, without hardware."""

import difflib
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from sigma_jax.runtime.errors import InvalidValue

_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
SHAPES = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}  # slices that one can rent, of chips
CORES = {"v4": 2, "v5p": 2}  # per chip, where a name such as v5p-1024 counts cores


def topology_devices(name: str, num_slices: int = 1) -> list[jax.Device]:
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
