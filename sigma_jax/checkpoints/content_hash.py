"""A hash of every array of a checkpoint, by which damaged arrays are found.

Orbax checks the index of a checkpoint but not the arrays: one with a flipped bit is restored without an error. The hash
is a sum modulo 2^32, over all elements, of a one-to-one function of (bits, position). A sum does not depend on how the
array is sharded, so the value is the same on any mesh and any number of hosts; it is computed on the devices that hold
the shards, at memory speed, and one scalar per array is exchanged. One changed element always changes it; other damage
goes unseen with a probability of 1 in 4e9.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sigma_jax.runtime.trees import Tree

UINTS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # 8 bytes: two words per element


def content_hash(tree: Tree) -> dict[str, str]:
    """{"params/encoder/kernel": "9f3a01c2", ...} for every array of a pytree of jax.Arrays (of any sharding).

    In a run of several processes all must call it together. Raises TypeError for a leaf that is not a jax.Array.
    """
    names, leaves = named_leaves(tree)
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"{name} is {type(leaf).__name__}, expected jax.Array: put it on a device before saving")
    hashes = jax.device_get([_hash_array(leaf) for leaf in leaves])
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
def _hash_array(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(array, UINTS[array.dtype.itemsize]).astype(jnp.uint32)
    position, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    mixed = words ^ (position * jnp.uint32(0x9E3779B1))  # golden ratio: neighbours land far apart
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # MurmurHash3's finalizer, one-to-one
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
