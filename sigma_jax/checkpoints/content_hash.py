"""A hash of every array of a checkpoint, by which damaged arrays are found.

Orbax checks the index of a checkpoint but not the arrays: one with a flipped bit is restored without an error. The hash
is a sum modulo 2^32, over all elements, of a one-to-one function of (bits, position). A sum does not depend on how the
array is sharded, so the value is the same on any mesh and any number of hosts. Large arrays are hashed on the devices
that hold the shards, at memory speed, and one scalar per array is exchanged; small ones on the host, because a program
for each of their shapes takes longer to compile than to run. One changed element always changes the hash; other damage
goes unseen with a probability of 1 in 4e9.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.runtime.trees import Tree

UINTS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}  # 8 bytes: two words per element
SMALL = 2**20  # elements: numpy takes 20 ms for them


def content_hash(tree: Tree) -> dict[str, str]:
    """{"params/encoder/kernel": "9f3a01c2", ...} for every array of a pytree of jax.Arrays (of any sharding).

    In a run of several processes all must call it together. Raises TypeError for a leaf that is not a jax.Array.
    """
    names, leaves = named_leaves(tree)
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"{name} is {type(leaf).__name__}, expected jax.Array: put it on a device before saving")
    small = [leaf.size <= SMALL and (leaf.is_fully_addressable or leaf.is_fully_replicated) for leaf in leaves]
    found = jax.device_get([leaf if s else _device_hash(leaf) for leaf, s in zip(leaves, small, strict=True)])
    hashes = [_host_hash(value) if s else value for value, s in zip(found, small, strict=True)]
    return {name: f"{int(value):08x}" for name, value in zip(names, hashes, strict=True)}


def changed_leaves(tree: Tree, expected: Mapping[str, str]) -> list[str]:
    """Names of the arrays of `tree` whose hash is not the one in `expected`."""
    return [name for name, value in content_hash(tree).items() if expected.get(name) != value]


def named_leaves(tree: Tree) -> tuple[list[str], list[Any]]:
    """("params/encoder/kernel", ...) and the leaves: dict keys, field names and positions joined by '/'."""
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths_and_leaves]
    return names, [leaf for _, leaf in paths_and_leaves]


@jax.jit
def _device_hash(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(array, UINTS[array.dtype.itemsize]).astype(jnp.uint32)
    position, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(_mixed(words, position), dtype=jnp.uint32)


def _host_hash(array: np.ndarray) -> np.uint32:
    words = np.ascontiguousarray(array).reshape(-1).view(UINTS[array.dtype.itemsize]).astype(np.uint32)
    return np.sum(_mixed(words, np.arange(words.size, dtype=np.uint32)), dtype=np.uint32)


def _mixed(words, position):
    """A one-to-one function of each word, another one at each position; arrays of uint32, of jax.numpy or numpy."""
    mixed = words ^ (position * np.uint32(0x9E3779B1))  # golden ratio: neighbours land far apart
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # MurmurHash3's finalizer, one-to-one
        mixed = (mixed ^ (mixed >> shift)) * np.uint32(factor)
    return mixed ^ (mixed >> 16)
