"""Where every array lives: the mesh, and one list of rules from names to partition specs.

Mesh axes: `data` (copies of the parameters) and `fsdp` (parameters and optimizer state split over it). Batches are
split over both. A rule names which dimension of an array `fsdp` splits; a dimension it does not divide stays whole.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sigma_jax.train.optimizer import path_of

BATCH_AXES = ("data", "fsdp")

# (pattern of the path's end, dimension that fsdp splits, counted from the last one). First match wins.
RULES = (
    (r"attn/qkv$", -2),
    (r"kernel$", -2),
    (r"prototypes$", -2),
    (r".*", None),  # biases, norms, tokens, counters: whole everywhere
)


def make_mesh(data: int = -1, fsdp: int = 1, devices: list | None = None) -> Mesh:
    """A mesh of all devices; one of the axes may be -1, 'the rest'.

    Raises:
      ValueError: axes that do not multiply to the device count.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if data == -1 and fsdp > 0 and count % fsdp == 0:
        data = count // fsdp
    elif fsdp == -1 and data > 0 and count % data == 0:
        fsdp = count // data
    if data < 1 or fsdp < 1 or data * fsdp != count:
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        raise ValueError(
            f"a mesh of data={data} x fsdp={fsdp} does not make {count} devices: "
            f"each axis must be one of {divisors}, their product {count} (or -1 for the rest)"
        )
    return Mesh(np.asarray(devices).reshape(data, fsdp), BATCH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)


def partition_spec(path: str, shape: tuple[int, ...], fsdp: int) -> P:
    """The partition spec of a parameter (or its moments) by its path and shape."""
    for pattern, dimension in RULES:
        if re.search(pattern, path):
            if dimension is None or len(shape) < -dimension or fsdp == 1 or shape[dimension] % fsdp:
                return P()
            spec: list[str | None] = [None] * len(shape)
            spec[dimension] = "fsdp"
            return P(*spec)
    raise AssertionError("the last rule matches every path")


def state_shardings(mesh: Mesh, abstract: Any) -> Any:
    """NamedShardings of a tree of shapes, leaf by leaf from RULES; nothing is allocated."""

    def sharding(path, leaf):
        return NamedSharding(mesh, partition_spec(path_of(path), leaf.shape, mesh.shape["fsdp"]))

    return jax.tree_util.tree_map_with_path(sharding, abstract)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches: leading axis over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """Shapes with their shardings attached: what restore and ahead-of-time compilation ask for."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch become global arrays split over all devices."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
