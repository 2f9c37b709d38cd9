"""Named streams of randomness."""

import zlib

import jax

# The time of a draw: the step, or (step, micro-batch) under gradient accumulation.
Moment = jax.Array | int | tuple[jax.Array | int, ...]


def stream(seed: int, name: str, step: Moment = 0) -> jax.Array:
    """The PRNG key of a named random stream at a step.

    Keys depend on seed, name and step only: a new stream changes no other one, and a resumed run draws what the
    uninterrupted one would have drawn. The numbers of a tuple are folded in one after the other, so that no key repeats
    when the number of micro-batches changes.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)
    for number in step if isinstance(step, tuple) else (step,):
        key = jax.random.fold_in(key, number)
    return key
