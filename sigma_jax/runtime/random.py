"""Named streams of randomness."""

import zlib

import jax


def stream(seed: int, name: str, step: jax.Array | int = 0) -> jax.Array:
    """The key of a named random stream at a step: adding a stream never changes another, a resumed run repeats none."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return jax.random.fold_in(key, step)
