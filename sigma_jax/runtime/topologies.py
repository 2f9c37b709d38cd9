"""Topologies of TPUs and GPUs for ahead-of-time compilation on machines without such devices."""

import difflib
import importlib.util
import math
import os
import re
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from sigma_jax.runtime.errors import InvalidValue

_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
SHAPES = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}  # shapes of slices that are offered, in chips
CORES = {"v4": 2, "v5p": 2}  # per chip, where a name such as v5p-1024 counts cores


CARDS = Path(__file__).parent / "cards"  # descriptions of GPUs, in the format of XLA's target_config
GPUS_PER_HOST = 8
PLANNED_CUDNN = 91200  # 9.12.0, as in the cards' descriptions
CUDA_PLUGIN = "jax_plugins.xla_cuda13"


def topology_devices(name: str, num_slices: int = 1) -> list[jax.Device]:
    """Descriptions of the devices of a topology.

    This needs the package with the platform's compiler (libtpu, or JAX's CUDA plugin), but no device.

    Args:
      name: 'v5e:4x4' (TPU chips), 'h100:8' (GPUs of one host) or 'h100:4x8' (hosts x GPUs).
      num_slices: TPU slices of this shape, connected by the data centre network.

    Raises:
      InvalidValue: an unknown topology, with the nearest known one, or a missing package, with how to install it.
    """
    if name.partition(":")[0].lower() in cards() or not re.match(r"v\d", name):
        return _gpus(name.lower(), num_slices)
    return _tpus(name, num_slices)


def cards() -> list[str]:
    """Names of the GPUs that are supported, such as 'h100'."""
    return sorted(path.stem for path in CARDS.glob("*.pbtxt"))


def _gpus(name: str, num_slices: int) -> list[jax.Device]:
    card, _, shape = name.partition(":")
    if card not in cards():
        raise InvalidValue(
            f"unknown topology {name!r}: GPUs are {' and '.join(f'{known}:N' for known in cards())}, TPUs "
            f"GENERATION:SHAPE with one of {', '.join(SHAPES)}, such as h100:8, h100:4x8, v5e:4x4"
        )
    sizes = [int(size) for size in shape.split("x") if size.isdigit()]
    hosts, gpus = sizes if len(sizes) == 2 else (1, *sizes) if len(sizes) == 1 else (0, 0)
    if shape != "x".join(map(str, sizes)) or hosts < 1 or not 1 <= gpus <= GPUS_PER_HOST:
        count = hosts * gpus
        fix = f"{card}:{-(-count // GPUS_PER_HOST)}x{GPUS_PER_HOST}" if count > GPUS_PER_HOST else f"{card}:8"
        raise InvalidValue(
            f"topology {name!r}: a host has 1 to {GPUS_PER_HOST} GPUs; write {card}:GPUS or {card}:HOSTSxGPUS, such as "
            f"{fix}"
        )
    if num_slices > 1:
        raise InvalidValue(
            f"--slices={num_slices} is for TPUs: write hosts into the topology, {card}:{num_slices}x{gpus}"
        )
    if importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec(CUDA_PLUGIN) is None:
        version = jax.__version__
        raise InvalidValue(
            f"--topology={name} needs JAX's CUDA compiler, though no GPU: pip install --no-deps "
            f'"jax-cuda13-plugin=={version}" "jax-cuda13-pjrt=={version}"'
        )
    _trace_without_cudnn()
    target = (CARDS / f"{card}.pbtxt").read_text()
    try:
        found = topologies.get_topology_desc(platform="cuda", target_config=target, topology=f"1x{hosts}x{gpus}")
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise InvalidValue(
            f"JAX's CUDA compiler does not load here ({str(error).splitlines()[0][:200]}): its version must be that of "
            f"jax, {jax.__version__}"
        ) from error
    return list(found.devices)


def _trace_without_cudnn() -> None:
    """Lets attention be traced for cuDNN where that is not installed: only JAX's check of its version is replaced."""
    from jax._src.cudnn import fused_attention_stablehlo

    try:
        fused_attention_stablehlo.check_cudnn_version()
    except RuntimeError:
        fused_attention_stablehlo.check_cudnn_version = lambda: PLANNED_CUDNN


def _tpus(name: str, num_slices: int) -> list[jax.Device]:
    # Values that libtpu would otherwise query from a TPU machine. Except for the log level, they have no influence.
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
    """The known topology nearest to a wrong name or to an accelerator type of Google Cloud, such as v5litepod-256."""
    generation, _, shape = name.replace("v5litepod", "v5e").replace("-", ":").partition(":")
    generation = difflib.get_close_matches(generation, SHAPES, n=1, cutoff=0)[0]
    chips = math.prod(int(size) for size in re.findall(r"\d+", shape)) or 1
    if "-" in name:
        chips //= CORES.get(generation, 1)
    sizes = {shape: math.prod(map(int, shape.split("x"))) for shape in SHAPES[generation]}
    return f"{generation}:{min(sizes, key=lambda shape: abs(sizes[shape] - chips))}"
