"""The four linear heads of repetition counting, and the encoder's input for a window.

The network is a VideoClassifier with NUM_OUTPUTS "classes": mean over all tubes, a new LayerNorm, and one linear layer
that holds the four heads side by side. The video transformer is our adaptation: SEVERE counts with R(2+1)D.

Letters: B windows, F frames of a window, T frames of a clip, A anchors.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sigma_jax.ops.repetition_windows import ANCHORS, Array
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD, unit_pixels

NUM_OUTPUTS = 6 * len(ANCHORS)
# Frames outside the clip: after standardisation their pixels equal the mean colour instead of 0, as in the authors'
# code.
OUTSIDE = tuple(mean * std + mean for mean, std in zip(PIXEL_MEAN, PIXEL_STD, strict=True))


class Heads(NamedTuple):
    """Outputs for B windows: logits [B 2 A] and boxes [B A] of the left and of the right half."""

    left_logits: Array
    left_boxes: Array
    right_logits: Array
    right_boxes: Array


def split_heads(outputs: Array) -> Heads:
    """The classifier's outputs [B 6*A] -> Heads."""
    sides = outputs.reshape(len(outputs), 2, 3, len(ANCHORS))
    return Heads(sides[:, 0, :2], sides[:, 0, 2], sides[:, 1, :2], sides[:, 1, 2])


def window_pixels(video: jax.Array, frames: jax.Array, length: jax.Array) -> jax.Array:
    """Pixels of windows of one clip, float [... F H W 3] in [0, 1].

    Args:
      video: [T H W 3] uint8.
      frames: frame numbers int [... F]; those below 0 or from `length` on are filled with OUTSIDE.
      length: frames of the clip.
    """
    pixels = unit_pixels(jnp.take(video, jnp.clip(frames, 0, len(video) - 1), axis=0))
    inside = (frames >= 0) & (frames < length)
    return jnp.where(inside[..., None, None, None], pixels, jnp.asarray(OUTSIDE, pixels.dtype))
