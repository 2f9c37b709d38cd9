"""Positional embeddings: fixed sin-cos tables, and learned tables resized to another grid.

Letters: N = t*h*w positions, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.runtime.errors import InvalidValue

POSITION_KINDS = ("sincos_1d", "sincos_3d")


def _sincos(positions: np.ndarray, dim: int) -> np.ndarray:
    """Sin-cos embedding of positions [N] -> [N dim], float64.

    The angle of position p in column j is p / 10000^(2*floor(j/2)/dim); even columns: its sine, odd ones: its cosine.
    """
    columns = np.arange(dim)
    angle = positions[:, None] / np.power(10000.0, 2 * (columns // 2) / dim)
    return np.where(columns % 2 == 0, np.sin(angle), np.cos(angle))


def position_table(kind: str, grid_shape: tuple[int, int, int], dim: int) -> np.ndarray:
    """The positional embedding of a tube grid, float32 [N D].

    Args:
      kind: 'sincos_1d', the authors' embedding of the flattened index (`enc_pos_embed` in tests/goldens), or
        'sincos_3d', in which time, row and column each have a part of the width.
      grid_shape: (t, h, w), any size: the table is computed for it.
      dim: the width D.

    Raises:
      InvalidValue: an unknown kind.
    """
    t, h, w = grid_shape
    if kind == "sincos_1d":
        return _sincos(np.arange(t * h * w, dtype=np.float64), dim).astype(np.float32)
    if kind != "sincos_3d":
        raise InvalidValue(f"positions {kind!r} are unknown: choose one of {POSITION_KINDS}")
    row_dim = dim // 3 // 2 * 2
    time_dim = dim - 2 * row_dim
    axes = np.meshgrid(np.arange(t), np.arange(h), np.arange(w), indexing="ij")
    parts = zip(axes, (time_dim, row_dim, row_dim), strict=True)
    return np.concatenate([_sincos(axis.ravel().astype(np.float64), d) for axis, d in parts], axis=1).astype(np.float32)


def _torch_cubic(old: int, new: int) -> np.ndarray:
    """Interpolation weights [new old] of torch's bicubic `interpolate` without antialiasing.

    Torch uses a = -0.75 and repeats the border there; jax.image.resize uses a = -0.5 and drops taps beyond the border,
    which is what torch does with antialiasing.
    """
    a, weights = -0.75, np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            d = abs(center - tap)
            near = ((a + 2) * d - (a + 3)) * d * d + 1
            far = ((d - 5) * d + 8) * d * a - 4 * a
            weights[i, min(max(tap, 0), old - 1)] += near if d <= 1 else far if d < 2 else 0.0
    return weights.astype(np.float32)


def resize_positions(
    table: jax.Array, old: tuple[int, ...], new: tuple[int, ...], *, antialias: bool = False
) -> jax.Array:
    """Resizes a learned positional embedding [N D] from grid `old` to grid `new`, each (h, w) or (t, h, w).

    Space is resized bicubically and time linearly, with half-pixel centres, equal to torch's `interpolate`. The
    published code of DINO and of DINOv2 without registers resizes without antialiasing, that of DINOv2 with registers
    with it. Equal grids return the table unchanged.
    """
    if tuple(old) == tuple(new):
        return table
    dim = table.shape[-1]
    cube = jnp.asarray(table, jnp.float32).reshape(*old, dim)
    if len(old) == 3:
        if old[0] != new[0]:
            cube = jax.image.resize(cube, (new[0], *old[1:], dim), "linear", antialias=False)
    else:
        cube = cube[None]
    h, w = new[-2:]
    if antialias:
        cube = jax.image.resize(cube, (cube.shape[0], h, w, dim), "cubic", precision=jax.lax.Precision.HIGHEST)
    else:
        rows, columns = _torch_cubic(old[-2], h), _torch_cubic(old[-1], w)
        precision = jax.lax.Precision.HIGHEST
        cube = jnp.einsum("thwD,ah,bw->tabD", cube, rows, columns, precision=precision)
    return cube.reshape(-1, dim)
