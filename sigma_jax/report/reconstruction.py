"""Reconstructions of hidden tubes by a model that was trained on pixels (the VideoMAE control).

Its targets are tubes standardised by their own mean and deviation, which a prediction does not contain. Most published
pictures use the statistics of the true tubes, and so show colours and contrast that the model did not predict. Here
both are drawn: with the true statistics, and with those of the nearest visible tubes, which uses no hidden pixel.

Letters: B clips, F frames, y x pixels, N tubes, V visible, M hidden, P = pt*ph*pw*3.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from sigma_jax.models.pretrain import PretrainModel
from sigma_jax.objective.targets import EPSILON
from sigma_jax.ops.masking import gather, mask_of, sample_mask
from sigma_jax.ops.tubes import TubeGrid, tubes_to_video, unit_pixels, video_to_tubes
from sigma_jax.report import style
from sigma_jax.report.clips import hide_tubes
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.weights.frozen import Pretrained

CELL = 128  # px of a frame
NAMES = 190  # px of the names of the rows
MAX_FRAMES = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
    """One clip, uint8 [F y x 3] each: original, input of the encoder, and predictions with both kinds of statistics."""

    original: np.ndarray
    visible: np.ndarray
    with_true_statistics: np.ndarray
    without: np.ndarray


def pixel_grid(model: Pretrained, clip: np.ndarray, mask_ratio: float) -> TubeGrid:
    """The tube grid of a clip [1 F y x 3].

    Raises:
      InvalidValue: the model predicts no pixels.
    """
    sizes = model.weights.sizes
    what = None if model.weights.kind == "pretrain" else f"it is a {model.weights.kind} model without a decoder"
    if what is None:
        grid = TubeGrid(clip.shape[1], tuple(clip.shape[2:4]), tuple(sizes["tube_size"]), mask_ratio)
        if not sizes["num_prototypes"] and sizes["target_width"] == grid.tube_dim:
            return grid
        what = f"its decoder predicts features of width {sizes['target_width']}"
    raise InvalidValue(f"{model.weights.source} predicts no pixels: {what}; a model with target=pixel is needed")


def reconstruct(
    model: Pretrained, clip: np.ndarray, *, mask_ratio: float = 0.9, seed: int = 0, standardized: bool = True
) -> Reconstruction:
    """Hides tubes of a clip and lets the model predict them.

    Args:
      clip: uint8 [1 F y x 3].
      standardized: False: the model was trained on pixels as they are (objective.normalize_targets=False), so
        predictions are pixels and the two views are equal.

    Raises:
      InvalidValue: the model predicts no pixels.
    """
    grid = pixel_grid(model, clip, mask_ratio)
    visible_idx, masked_idx = sample_mask(jax.random.key(seed), 1, grid)
    size = model.module.size
    module = PretrainModel(grid, size, grid.tube_dim, positions=model.module.positions, compute=model.compute)
    predictions = _compiled(module)({"params": model.params}, clip, visible_idx, masked_idx).astype(jnp.float32)
    tubes = unit_pixels(video_to_tubes(jnp.asarray(clip), grid.tube_size))
    mask = np.asarray(mask_of(masked_idx, grid.num_tubes))
    views = []
    for statistics in (_true_statistics, _nearest_statistics) if standardized else (None, None):
        pixels = predictions
        if statistics:
            mean, std = statistics(tubes, visible_idx, masked_idx, grid)
            colors = rearrange(predictions, "B M (p c) -> B M p c", c=3)
            pixels = rearrange(colors * (std + EPSILON) + mean, "B M p c -> B M (p c)")
        filled = tubes.at[:, masked_idx[0]].set(pixels)
        views.append(np.asarray(jnp.round(255 * jnp.clip(tubes_to_video(filled, grid), 0, 1)), np.uint8)[0])
    return Reconstruction(clip[0], hide_tubes(clip, mask, grid.tube_size)[0], *views)


@functools.lru_cache(maxsize=4)
def _compiled(module: PretrainModel) -> Callable:
    return jax.jit(module.apply)


def _moments(tubes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and unbiased deviation per colour, each [B n 1 3], of tubes [B n P]."""
    colors = rearrange(tubes, "B n (p c) -> B n p c", c=3)
    return jnp.mean(colors, axis=2, keepdims=True), jnp.std(colors, axis=2, keepdims=True, ddof=1)


def _true_statistics(tubes, visible_idx, masked_idx, grid: TubeGrid) -> tuple[jax.Array, jax.Array]:
    """The statistics of the hidden tubes."""
    return _moments(gather(tubes, masked_idx))


def _nearest_statistics(tubes, visible_idx, masked_idx, grid: TubeGrid) -> tuple[jax.Array, jax.Array]:
    """The statistics of the nearest visible tubes of the same time step, averaged over equally near ones."""
    place = np.stack(np.unravel_index(np.arange(grid.num_tubes), grid.shape), axis=-1)
    hidden, visible = place[np.asarray(masked_idx)[0]], place[np.asarray(visible_idx)[0]]
    distance = np.square(hidden[:, None, 1:] - visible[None, :, 1:]).sum(axis=-1).astype(np.float64)
    distance[hidden[:, None, 0] != visible[None, :, 0]] = np.inf
    is_nearest = distance == distance.min(axis=1, keepdims=True)
    weights = jnp.asarray(is_nearest / is_nearest.sum(axis=1, keepdims=True), jnp.float32)
    return tuple(jnp.einsum("MV,BVpc->BMpc", weights, moment) for moment in _moments(gather(tubes, visible_idx)))


def write_reconstruction(path: Path, views: Reconstruction) -> Path:
    """Writes a PNG with a labelled row per view."""
    rows = {
        "frames": views.original,
        "what the encoder sees": views.visible,
        "predicted, with mean and deviation of the true hidden tubes": views.with_true_statistics,
        "predicted, with those of visible tubes: no hidden pixel is read": views.without,
    }
    count = len(views.original)
    shown = np.arange(min(count, MAX_FRAMES)) * count // min(count, MAX_FRAMES)
    width, height = style.fit(views.original[0], CELL).size
    picture, pen = style.canvas(
        2 * style.MARGIN + NAMES + len(shown) * (width + style.GAP), 2 * style.MARGIN + len(rows) * (height + style.GAP)
    )
    for row, (name, frames) in enumerate(rows.items()):
        top = style.MARGIN + row * (height + style.GAP)
        style.write_wrapped(pen, (style.MARGIN, top + style.TEXT), name, NAMES - style.GAP)
        for column, frame in enumerate(shown):
            left = style.MARGIN + NAMES + column * (width + style.GAP)
            picture.paste(style.fit(frames[frame], CELL), (left, top))
    picture.save(path)
    return path
