"""Fixed sin-cos position tables, and tables resized to another grid.

Letters: N = t*h*w positions, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np

POSITION_KINDS = ("sincos_1d", "sincos_3d")


def _sincos(positions: np.ndarray, dim: int) -> np.ndarray:
    """positions [N] -> [N dim], float64: angle p / 10000^(2*floor(j/2)/dim), sin in even columns, cos in odd ones."""
    columns = np.arange(dim)
    angle = positions[:, None] / np.power(10000.0, 2 * (columns // 2) / dim)
    return np.where(columns % 2 == 0, np.sin(angle), np.cos(angle))


def position_table(kind: str, grid_shape: tuple[int, int, int], dim: int) -> np.ndarray:
    """The position table of a tube grid, float32 [N D].

    Args:
      kind: 'sincos_1d', one table over the flattened index (published; goldens `enc_pos_embed`), or 'sincos_3d',
        factored: shares of the width for time, row and column.
      grid_shape: (t, h, w); any size, tables need no resizing.
    """
    t, h, w = grid_shape
    if kind == "sincos_1d":
        return _sincos(np.arange(t * h * w, dtype=np.float64), dim).astype(np.float32)
    if kind != "sincos_3d":
        raise ValueError(f"positions {kind!r} are unknown: choose one of {POSITION_KINDS}")
    row_dim = dim // 3 // 2 * 2
    time_dim = dim - 2 * row_dim
    axes = np.meshgrid(np.arange(t), np.arange(h), np.arange(w), indexing="ij")
    parts = zip(axes, (time_dim, row_dim, row_dim), strict=True)
    return np.concatenate([_sincos(axis.ravel().astype(np.float64), d) for axis, d in parts], axis=1).astype(np.float32)


def resize_positions(table: jax.Array, old: tuple[int, ...], new: tuple[int, ...]) -> jax.Array:
    """A learned table [N D] over grid `old` -> over grid `new`; identity when they are equal.

    Space is resized bicubically and time linearly, half-pixel centres, without antialiasing (as torch's
    `interpolate` does by default).
    """
    if tuple(old) == tuple(new):
        return table
    dim = table.shape[-1]
    cube = table.reshape(*old, dim)
    if len(old) == 3 and old[0] != new[0]:
        cube = jax.image.resize(cube, (new[0], *old[1:], dim), "linear", antialias=False)
    cube = jax.image.resize(cube, (*new, dim), "cubic", antialias=False)
    return cube.reshape(int(np.prod(new)), dim).astype(jnp.float32)
