"""How every array is sharded: the mesh, and one list of rules from parameter names to partition specs.

Mesh axes: `data` (data parallelism: parameters are replicated along it) and `fsdp` (parameters and optimizer state are
sharded along it). Batches are sharded over both. A rule lists the dimensions of an array that may be sharded over
`fsdp`, in order of preference; the first one that it divides is taken, otherwise the array is replicated.
`tests/goldens/partition_specs_*.txt` lists the result for every parameter.
"""

import functools
import re
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.trees import Tree

BATCH_AXES = ("data", "fsdp")

# (pattern of the path's end, dimensions that may be sharded over fsdp, counted from the last). The first match counts.
RULES = (
    (r"attn/qkv$", (-2, -1)),
    (r"kernel$", (-2, -1)),
    (r"prototypes$", (-2, -1)),
    (r".*", ()),  # biases, norms, tokens, counters are replicated (under 1 % of the bytes)
)


def path_of(key_path: tuple) -> str:
    """A jax key path as 'a/b/c'."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in key_path)


def make_mesh(data: int = -1, fsdp: int = 1, devices: list | None = None) -> Mesh:
    """A mesh over all devices.

    Neighbours along `fsdp` are neighbours on the chips' interconnect. With several TPU slices, `data` runs over the
    slices first (so that only gradients and Sinkhorn's K-vectors cross the data centre network) and `fsdp` stays inside
    one.

    Args:
      data, fsdp: sizes of the axes; one of them may be -1, for the number that the other leaves.
      devices: default: all devices.

    Raises:
      InvalidValue: the product of the axes is not the number of devices, or `fsdp` is larger than a slice.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if data == -1 and fsdp > 0 and count % fsdp == 0:
        data = count // fsdp
    elif fsdp == -1 and data > 0 and count % data == 0:
        fsdp = count // data
    if data < 1 or fsdp < 1 or data * fsdp != count:
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        wanted = fsdp if fsdp > 0 else count / data if data > 0 else 1
        nearest = min(divisors, key=lambda n: abs(n - wanted))
        devices_text = f"{count} device" + "s" * (count > 1)
        raise InvalidValue(
            f"a mesh of data={data} x fsdp={fsdp} does not make {devices_text}: each axis must be one of {divisors}, "
            f"their product {count} (or -1 for the rest); the nearest is data={count // nearest} x fsdp={nearest}"
        )
    return Mesh(_arrange(devices, data, fsdp), BATCH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)


def count_slices(devices: Iterable[jax.Device]) -> int:
    """Number of TPU slices (connected by the data centre network only) of the devices; 1 where devices do not say."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def _arrange(devices: list, data: int, fsdp: int) -> np.ndarray:
    """Devices as an array [data, fsdp], arranged by their position on the interconnect."""
    slices = count_slices(devices)
    if slices > 1:
        if data % slices:
            raise InvalidValue(
                f"{slices} slices and a mesh of data={data} x fsdp={fsdp}: fsdp must stay inside a slice of "
                f"{len(devices) // slices} devices, so data must be a multiple of {slices}"
            )
        return mesh_utils.create_hybrid_device_mesh((data // slices, fsdp), (slices, 1), devices)
    if devices[0].platform == "tpu":
        return mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True)
    return np.asarray(devices).reshape(data, fsdp)


def partition_spec(path: str, shape: tuple[int, ...], fsdp: int) -> P:
    """The partition spec of a parameter (or its moments) by its path and shape."""
    if re.search(r"(^|/)memory/(pred|proj|ring/[^/]+)$", path):
        return P(None, BATCH_AXES)  # the feature queue and its ring of clips are sharded as batches are
    dimensions = next(found for pattern, found in RULES if re.search(pattern, path))
    for dimension in dimensions:
        if fsdp > 1 and len(shape) >= -dimension and shape[dimension] % fsdp == 0:
            spec: list[str | None] = [None] * len(shape)
            spec[dimension] = "fsdp"
            return P(*spec)
    return P()


def state_shardings(mesh: Mesh, abstract: Tree) -> Tree:
    """NamedShardings of a tree of shapes, leaf by leaf from RULES; nothing is allocated."""

    def sharding(path, leaf):
        return NamedSharding(mesh, partition_spec(path_of(path), leaf.shape, mesh.shape["fsdp"]))

    return jax.tree_util.tree_map_with_path(sharding, abstract)


def bytes_per_device(abstract: Tree) -> int:
    """Bytes of one device's part of a tree of shapes with shardings."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(abstract)
    )


def describe_specs(params: Tree, fsdp: int) -> list[str]:
    """One line per parameter: path, shape, partition spec; tests compare it to tests/goldens/partition_specs_*.txt."""
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        spec = partition_spec(path_of(path), leaf.shape, fsdp)
        where = ", ".join(str(axis) for axis in spec) or "whole"
        lines.append(f"{path_of(path):44s} {str(list(leaf.shape)):20s} {where}")
    return lines


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of replicated arrays."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the leading axis over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def with_shardings(abstract: Tree, shardings: Tree) -> Tree:
    """Attaches shardings to shapes, as restoring and ahead-of-time compilation need them."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)


def traced_on(mesh: Mesh, function: Callable) -> Callable:
    """`function` traced with `mesh` as its context, which ops/placement.py and the attention kernels read."""

    @functools.wraps(function)  # its name is what profiles and plans show
    def on_mesh(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return on_mesh


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes global arrays, sharded over all devices, of this process's rows of a batch."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
