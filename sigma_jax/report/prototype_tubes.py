"""The prototypes of one video (figures 4 and 5 of the paper): a mosaic of the clip, and tubes nearest to prototypes.

Similarity is the cosine between a prototype and the projection of a tube (SIGMA-MLP: of its normalised pixels;
SIGMA-DINO: frozen DINO features, standardised over the clip), without mask and Sinkhorn. The paper does not say how its
prototypes were chosen; here they are those that are nearest to most tubes of the clip.

Letters: F frames, y x pixels, (t h w) tube grid, N tubes, K prototypes, E target width.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sigma_jax.models.dino import DinoVit, tube_features
from sigma_jax.models.pretrain import PretrainModel
from sigma_jax.models.prototypes import cosine_scores, unit_rows
from sigma_jax.objective.targets import feature_targets, pixel_targets, teacher_frames
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.report import style
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.weights.frozen import Pretrained, grid_of

SIDE = 5  # a panel shows SIDE x SIDE tubes
TILE = 32  # px of a tube
SEPARATOR = 2  # px between tubes, black
FRAME = 160  # px of a frame of the mosaic
COLUMNS = 4  # of the mosaic
PER_ROW = 5  # panels below the mosaic


def tube_scores(model: Pretrained, clip: np.ndarray, teacher: Pretrained | None = None) -> np.ndarray:
    """Cosine of every tube of a clip with every prototype.

    Args:
      model: a pre-trained SIGMA checkpoint.
      clip: uint8 [1 F y x 3].
      teacher: the frozen teacher, needed for a SIGMA-DINO checkpoint.

    Returns:
      float32 [N K], tubes in the order time, row, column.

    Raises:
      InvalidValue: the checkpoint lacks prototypes or a way to project tubes; says which.
    """
    if "prototypes" not in model.params:
        raise InvalidValue(
            f"{model.weights.source} has no prototypes (it is a {model.weights.kind} model"
            f"{' trained on pixels or features alone' if model.weights.kind == 'pretrain' else ''}): "
            "pictures of prototypes need a SIGMA pre-training checkpoint"
        )
    return np.asarray(_cosines(tube_projections(model, clip, teacher), model.params["prototypes"]))


@jax.jit
def _cosines(projections: jax.Array, prototypes: jax.Array) -> jax.Array:
    return cosine_scores(projections, unit_rows(prototypes))


def tube_projections(model: Pretrained, clip: np.ndarray, teacher: Pretrained | None = None) -> jax.Array:
    """What is compared with the prototypes, [N E]; arguments as in `tube_scores`.

    Raises:
      InvalidValue: a teacher is needed, or another one.
    """
    sizes = model.weights.sizes
    grid = grid_of(sizes, clip.shape[1], clip.shape[2:4])
    if sizes["projection_widths"]:
        return _projector(model.module, grid)(model.params, clip)
    width = sizes["target_width"]
    if teacher is None:
        raise InvalidValue(
            f"{model.weights.source} has prototypes but no projection network: its targets were a teacher's features "
            f"of width {width}; pass --teacher=WEIGHTS"
        )
    if teacher.weights.kind != "teacher" or teacher.width != width:
        raise InvalidValue(
            f"--teacher is a {teacher.weights.kind} model of width {teacher.width}; expected a teacher of {width}"
        )
    return _featurizer(teacher.module, grid)(teacher.params, clip)


@functools.lru_cache(maxsize=4)
def _projector(module: PretrainModel, grid: TubeGrid) -> Callable:
    """Projections of a clip's normalised pixels."""

    def project(params, clip):
        targets = pixel_targets(clip, jnp.arange(grid.num_tubes)[None], grid)
        return module.apply({"params": params}, targets, method="project")[0]

    return jax.jit(project)


@functools.lru_cache(maxsize=4)
def _featurizer(teacher: DinoVit, grid: TubeGrid) -> Callable:
    """A teacher's standardised features of a clip."""

    def features(params, clip):
        tokens = teacher.apply({"params": params}, teacher_frames(clip, grid.tube_size[0]))
        maps = tube_features(tokens, teacher.size, grid.shape[1:])
        return feature_targets(maps.reshape(1, -1, maps.shape[-1]), jnp.arange(grid.num_tubes)[None])[0]

    return jax.jit(features)


def nearest_tubes(scores: np.ndarray, prototype: int, count: int = SIDE * SIDE) -> np.ndarray:
    """Numbers of the tubes [count] most similar to a prototype, the best first; of equal ones the lower number."""
    return np.argsort(-scores[:, prototype], kind="stable")[:count]


def used_prototypes(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(prototypes, shares of the tubes nearest to them) in descending order, at most `count`, without unused ones."""
    hits = np.bincount(scores.argmax(axis=1), minlength=scores.shape[1])
    order = np.argsort(-hits, kind="stable")[:count]
    order = order[hits[order] > 0]
    return order, hits[order] / len(scores)


def write_prototype_tubes(
    path: Path, clip: np.ndarray, scores: np.ndarray, tube_size: tuple[int, int, int], *, max_prototypes: int = 7
) -> Path:
    """Writes a PNG: the first frames of the clip's tubes, and around them a panel of 5 x 5 tubes per prototype.

    Of a tube its first frame is drawn; the best is at the top left, row by row.

    Args:
      clip: uint8 [F y x 3].
      scores: [N K] from `tube_scores`.
      tube_size: (pt, ph, pw).

    Raises:
      InvalidValue: scores of another number of tubes.
    """
    grid = style.grid_shape(clip[None], tube_size)
    if len(scores) != np.prod(grid):
        raise InvalidValue(f"scores of {len(scores)} tubes; the clip has {np.prod(grid)}")
    ids, shares = used_prototypes(scores, max_prototypes)
    panels = [
        (f"Prototype {i}", f"{share:.1%}", _panel(clip, nearest_tubes(scores, i), tube_size))
        for i, share in zip(ids, shares, strict=True)
    ]
    mosaic = _mosaic(clip[:: tube_size[0]])
    picture = _arranged(mosaic, panels)
    picture.save(path)
    return path


def _panel(clip: np.ndarray, tubes: np.ndarray, tube_size: tuple[int, int, int]) -> Image.Image:
    """5 x 5 tubes with black between them."""
    (_, h, w), (pt, ph, pw) = style.grid_shape(clip[None], tube_size), tube_size
    side = SIDE * (TILE + SEPARATOR) + SEPARATOR
    panel = Image.new("RGB", (side, side))
    for place, tube in enumerate(tubes.tolist()):
        step, row, column = tube // (h * w), tube // w % h, tube % w
        tile = clip[step * pt, row * ph : (row + 1) * ph, column * pw : (column + 1) * pw]
        at = [SEPARATOR + number * (TILE + SEPARATOR) for number in (place % SIDE, place // SIDE)]
        panel.paste(Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.NEAREST), at)
    return panel


def _mosaic(frames: np.ndarray) -> Image.Image:
    """Frames in rows of four."""
    cells = [style.fit(frame, FRAME) for frame in frames]
    width, height = cells[0].size
    columns = min(COLUMNS, len(cells))
    mosaic = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), style.PAPER)
    for number, cell in enumerate(cells):
        mosaic.paste(cell, (number % columns * width, number // columns * height))
    return mosaic


def _arranged(mosaic: Image.Image, panels: list[tuple[str, str, Image.Image]]) -> Image.Image:
    """Two panels on each side of the mosaic, the others in rows below it."""
    side = SIDE * (TILE + SEPARATOR) + SEPARATOR
    cell, step = side + 2 * style.GAP, side + 2 * style.TEXT + style.GAP
    left = style.MARGIN
    middle = left + cell + style.GAP
    right = middle + mosaic.width + 3 * style.GAP
    below = style.MARGIN + max(2 * step, mosaic.height + style.GAP)
    places = [(left, style.MARGIN), (left, style.MARGIN + step), (right, style.MARGIN), (right, style.MARGIN + step)]
    rest = len(panels) - len(places)
    width = right + side + style.MARGIN
    for row in range(-(-rest // PER_ROW)):
        count = min(PER_ROW, rest - row * PER_ROW)
        gap = (width - 2 * style.MARGIN - PER_ROW * side) / (PER_ROW - 1)
        start = (width - count * side - (count - 1) * gap) / 2
        places += [(round(start + i * (side + gap)), below + row * step) for i in range(count)]
    height = below + max(0, -(-rest // PER_ROW)) * step + style.MARGIN - style.GAP
    picture, pen = style.canvas(width, height)
    picture.paste(mosaic, (middle + style.GAP, style.MARGIN + max(0, (2 * step - mosaic.height) // 2 - style.TEXT)))
    for (name, share, panel), (x, y) in zip(panels, places, strict=False):
        end = style.write(pen, (x, y + style.TEXT), name)
        style.write(pen, (end + style.GAP, y + style.TEXT), share, color=style.MUTED)
        picture.paste(panel, (x, y + round(1.5 * style.TEXT)))
    return picture
