"""Targets at the hidden tubes: normalised pixels (VideoMAE, SIGMA-MLP) or normalised teacher features (SIGMA-DINO).

Letters: B clips, N tubes, M hidden, P = pt*ph*pw*3, (t h w) grid, E teacher width.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from sigma_jax.ops.masking import gather
from sigma_jax.ops.tubes import TubeGrid, unit_pixels, video_to_tubes

EPSILON = 1e-6  # added to the standard deviation


def _standardize(x: jax.Array, axis: int) -> jax.Array:
    """(x - mean) / (unbiased std + 1e-6) along an axis."""
    mean = jnp.mean(x, axis=axis, keepdims=True)
    std = jnp.std(x, axis=axis, keepdims=True, ddof=1)
    return (x - mean) / (std + EPSILON)


def pixel_targets(video: jax.Array, masked_idx: jax.Array, grid: TubeGrid, *, normalize: bool = True) -> jax.Array:
    """Hidden tubes, each standardised per colour channel over its own pixels (`labels` in tests/goldens, item 8 there).

    Args:
      video: [B F H W 3], uint8 or float in [0, 1].
      masked_idx: [B M].
      grid: how the clips are cut into tubes.
      normalize: False keeps pixels in [0, 1] (an ablation of VideoMAE).

    Returns:
      targets [B M P], fp32.
    """
    tubes = unit_pixels(gather(video_to_tubes(video, grid.tube_size), masked_idx))
    if not normalize:
        return tubes
    pixels = rearrange(tubes, "B M (p c) -> B M p c", c=3)
    return rearrange(_standardize(pixels, axis=2), "B M p c -> B M (p c)")


def feature_targets(features: jax.Array, masked_idx: jax.Array) -> jax.Array:
    """Teacher features at the hidden tubes, standardised per channel over all tubes of the clip.

    As in the authors' code (tests/goldens/README.md, item 9).

    Args:
      features: [B N E], one per tube.
      masked_idx: [B M].

    Returns:
      targets [B M E], fp32.
    """
    return gather(_standardize(features.astype(jnp.float32), axis=1), masked_idx)


def teacher_frames(video: jax.Array, tube_length: int) -> jax.Array:
    """The frames for the teacher, the first one of each tube: [B F H W 3] -> [B*t H W 3]."""
    return rearrange(video[:, ::tube_length], "B t y x c -> (B t) y x c")
