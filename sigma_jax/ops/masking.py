"""Which tubes are hidden: masks as ascending index lists, sampled on the device.

Letters: B clips, (t h w) tube grid, N = t*h*w tubes, V visible, M hidden. A tube mask (Tong et al. 2022, VideoMAE; the
authors' recipe) draws one pattern of the h*w positions per clip and repeats it over all t time steps; a random mask
draws every time step on its own.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.errors import InvalidValue

MASK_KINDS = ("tube", "random")


def sample_mask(key: jax.Array, batch_size: int, grid: TubeGrid, kind: str = "tube") -> tuple[jax.Array, jax.Array]:
    """Draws masks for a batch.

    Args:
      key: a PRNG key; the same key gives the same masks on any number of devices.
      batch_size: B.
      grid: the tube grid and the share of its tubes that is hidden.
      kind: 'tube' (the paper's) or 'random'.

    Returns:
      visible_idx [B V], masked_idx [B M], int32, ascending.

    Raises:
      InvalidValue: an unknown kind.
    """
    if kind not in MASK_KINDS:
        raise InvalidValue(f"mask kind {kind!r} is unknown: choose one of {MASK_KINDS}")
    steps = 1 if kind == "tube" else grid.num_steps
    order = jnp.argsort(jax.random.uniform(key, (batch_size, steps, grid.tubes_per_step)), axis=-1)
    masked = jnp.sort(order[..., : grid.masked_per_step], axis=-1)
    visible = jnp.sort(order[..., grid.masked_per_step :], axis=-1)

    def over_time(positions):
        offsets = jnp.arange(grid.num_steps)[:, None] * grid.tubes_per_step
        return (positions + offsets).reshape(batch_size, -1).astype(jnp.int32)

    return over_time(visible), over_time(masked)


def indices_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of masks on the host: bool [B N] (True = hidden) -> visible_idx [B V], masked_idx [B M], both ascending.

    Raises:
      ValueError: clips that hide different numbers of tubes cannot share a batch.
    """
    counts = mask.sum(axis=1)
    if len(set(counts.tolist())) != 1:
        raise ValueError(f"every clip must hide the same number of tubes, got {sorted(set(counts.tolist()))}")
    batch_size, num_tubes = mask.shape
    order = np.argsort(mask, axis=1, kind="stable").astype(np.int32)  # visible ones first, each group ascending
    return order[:, : num_tubes - counts[0]], order[:, num_tubes - counts[0] :]


def mask_of(masked_idx: jax.Array, num_tubes: int) -> jax.Array:
    """The mask of given indices: masked_idx [B M] -> bool [B N], True = hidden."""
    rows = jnp.arange(masked_idx.shape[0])[:, None]
    return jnp.zeros((masked_idx.shape[0], num_tubes), bool).at[rows, masked_idx].set(True)


def gather(tokens: jax.Array, idx: jax.Array) -> jax.Array:
    """Selects tokens by index: tokens [B N C], idx [B n] -> [B n C]."""
    return jnp.take_along_axis(tokens, idx[..., None], axis=1)
