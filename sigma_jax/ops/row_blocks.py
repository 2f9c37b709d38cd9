"""Row blocks of a tall matrix: pieces that stay in a CPU's cache while several passes go over them.

Letters: n rows, R rows of a block, m = n // R blocks, K columns.
"""

from collections.abc import Callable

import jax
from jax import lax


def split(x: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """x [n ...] -> (blocks [m R ...], the remaining rows [n - m R ...], possibly none)."""
    count = x.shape[0] // rows
    return x[: count * rows].reshape(count, rows, *x.shape[1:]), x[count * rows :]


def sum_over(function: Callable[[jax.Array], jax.Array], blocks: jax.Array, rest: jax.Array) -> jax.Array:
    """Sum of function(block) over the pieces that `split` returned; one block is read at a time."""
    total = function(rest)  # zeros where no rows remain
    return lax.scan(lambda total, block: (total + function(block), None), total, blocks)[0]


def map_rows(function: Callable[[jax.Array], jax.Array], x: jax.Array, rows: int) -> jax.Array:
    """Applies function([R ...]) -> [R ...] by blocks; equal to function(x) where rows do not depend on each other."""
    if rows == 0 or x.shape[0] <= rows:
        return function(x)
    blocks, rest = split(x, rows)
    done = lax.map(function, blocks)
    done = done.reshape(-1, *done.shape[2:])
    return jax.numpy.concatenate([done, function(rest)]) if rest.shape[0] else done
