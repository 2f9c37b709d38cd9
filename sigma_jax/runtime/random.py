"""Named streams of randomness."""

import zlib

import jax

# When something is drawn: the step, or (step, micro-batch) where a step has several.
Moment = jax.Array | int | tuple[jax.Array | int, ...]


def stream(seed: int, name: str, step: Moment = 0) -> jax.Array:
    """The key of a named random stream at a step: adding a stream never changes another, a resumed run repeats none.

    The numbers of a tuple are folded in one after the other, so that another number of micro-batches repeats none.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)
    for number in step if isinstance(step, tuple) else (step,):
        key = jax.random.fold_in(key, number)
    return key
