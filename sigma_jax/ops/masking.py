"""Which tubes are hidden: masks as ascending index lists, sampled on the device.

Letters as in tubes.py. A tube mask draws one pattern of the h*w positions per clip and repeats it over all t time
steps, as the published recipe does; a random mask draws every time step anew.
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
      kind: 'tube' (the paper's) or 'random'.

    Returns:
      visible_idx [B V], masked_idx [B M], int32, ascending.
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
    """mask bool [B N] (True = hidden) -> visible_idx [B V], masked_idx [B M], ascending; on the host.

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
    """masked_idx [B M] -> mask bool [B N], True = hidden."""
    rows = jnp.arange(masked_idx.shape[0])[:, None]
    return jnp.zeros((masked_idx.shape[0], num_tubes), bool).at[rows, masked_idx].set(True)


def gather(tokens: jax.Array, idx: jax.Array) -> jax.Array:
    """tokens [B N C], idx [B n] -> the chosen ones [B n C]."""
    return jnp.take_along_axis(tokens, idx[..., None], axis=1)
