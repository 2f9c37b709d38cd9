"""A picture of what prototypes stand for: the tubes that are most similar to each (as figures 4 and 5 of the paper).

Letters: B clips, F frames, y x pixels, (t h w) tube grid, (pt ph pw) tube size, M scored tubes of a clip, K prototypes.
"""

from pathlib import Path

import numpy as np
from PIL import ImageDraw

from sigma_jax.report import style

CELL = 144  # px of a tube with its surroundings
CONTEXT = 3  # side, in tubes, of the shown surroundings of a tube
MAX_PER_CLIP = 2  # tubes of one clip in a row


def most_used(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(prototypes, share of tubes in [0, 1]) of the prototypes that are nearest to most tubes, at most `count`.

    Args:
        scores: [B M K] similarity of tubes to prototypes.
    """
    shares = np.bincount(scores.argmax(axis=-1).ravel(), minlength=scores.shape[-1]) / scores[..., 0].size
    order = np.argsort(-shares, kind="stable")[:count]
    return order[shares[order] > 0], shares[order][shares[order] > 0]


def top_tubes(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(clips, positions) of the highest scores [B M] in descending order, at most MAX_PER_CLIP of a clip.

    With too few clips for `count` tubes the limit per clip rises until they suffice.
    """
    num_clips, per_clip = scores.shape
    limit = max(MAX_PER_CLIP, -(-count // num_clips))
    order = np.argsort(-scores, axis=1, kind="stable")[:, : min(limit, per_clip)]
    best = np.take_along_axis(scores, order, axis=1)
    chosen = np.argsort(-best.ravel(), kind="stable")[:count]
    return chosen // best.shape[1], order.ravel()[chosen]


def write_prototypes(
    path: Path,
    video: np.ndarray,
    scores: np.ndarray,
    tube_size: tuple[int, int, int],
    *,
    tube_idx: np.ndarray | None = None,
    max_prototypes: int = 8,
    max_tubes: int = 8,
) -> Path:
    """Writes a PNG with a row per prototype: the tubes most similar to it, framed within their surroundings.

    The most used prototypes come first. Of a tube its first frame is drawn.

    Args:
        video: uint8 [B F y x 3].
        scores: [B M K] similarity of tubes to prototypes.
        tube_size: (pt, ph, pw) in frames and pixels.
        tube_idx: int [B M], which tube of the grid each score is about; all of them in order where None.
        max_prototypes: rows.
        max_tubes: tubes in a row.

    Raises:
        ValueError: clips that are no whole number of tubes, or scores that are not about these clips' tubes.
    """
    grid = style.grid_shape(video, tube_size)
    tube_idx = _checked_tubes(tube_idx, video, scores, np.prod(grid))
    ids, shares = most_used(scores, max_prototypes)
    columns = min(max_tubes, tube_idx.size)
    width, height = _draw_tube(video[0], 0, grid, tube_size).size
    labels, row = 150, height + style.TEXT + 3 * style.GAP
    picture, pen = style.canvas(
        2 * style.MARGIN + labels + columns * (width + style.GAP) - style.GAP,
        2 * style.MARGIN + len(ids) * row - 2 * style.GAP,
    )
    for i, (prototype, share) in enumerate(zip(ids, shares, strict=True)):
        top = style.MARGIN + i * row
        middle = top + height / 2
        style.write(pen, (style.MARGIN, middle), f"Prototype {prototype}")
        style.write(pen, (style.MARGIN, middle + 1.3 * style.TEXT), f"{share:.1%} of tubes", color=style.MUTED)
        for column, (clip, position) in enumerate(zip(*top_tubes(scores[..., prototype], columns), strict=True)):
            left = style.MARGIN + labels + column * (width + style.GAP)
            picture.paste(_draw_tube(video[clip], tube_idx[clip, position], grid, tube_size), (left, top))
            style.write(
                pen, (left, top + height + style.TEXT), f"{scores[clip, position, prototype]:.2f}", color=style.MUTED
            )
    picture.save(path)
    return path


def _checked_tubes(tube_idx: np.ndarray | None, video: np.ndarray, scores: np.ndarray, num_tubes: int) -> np.ndarray:
    """Which tube each score is about, int [B M]."""
    if tube_idx is None:
        tube_idx = np.tile(np.arange(num_tubes), (len(video), 1))
    if scores.ndim != 3 or scores.shape[:2] != tube_idx.shape or len(scores) != len(video):
        raise ValueError(
            f"scores {scores.shape} for {len(video)} clips and tube_idx {tube_idx.shape}; expected "
            f"[B M K] and [B M]; without tube_idx M is all {num_tubes} tubes"
        )
    if tube_idx.min() < 0 or tube_idx.max() >= num_tubes:
        raise ValueError(f"tube_idx spans {tube_idx.min()}..{tube_idx.max()}; expected 0..{num_tubes - 1}")
    return tube_idx


def _draw_tube(clip: np.ndarray, tube: int, grid: tuple[int, int, int], tube_size: tuple[int, int, int]):
    """Picture of tube number `tube` of `clip` [F y x 3], framed, with what surrounds it inside the frame."""
    (_, h, w), (pt, ph, pw) = grid, tube_size
    step, row, column = int(tube) // (h * w), int(tube) // w % h, int(tube) % w
    rows, columns = min(CONTEXT, h), min(CONTEXT, w)
    first_row = min(max(row - CONTEXT // 2, 0), h - rows)
    first_column = min(max(column - CONTEXT // 2, 0), w - columns)
    cell = style.fit(
        clip[step * pt, first_row * ph : (first_row + rows) * ph, first_column * pw : (first_column + columns) * pw],
        CELL,
    )
    unit_x, unit_y = cell.width / columns, cell.height / rows
    left, top = (column - first_column) * unit_x, (row - first_row) * unit_y
    frame = np.array([left - 1, top - 1, left + unit_x, top + unit_y])
    frame = np.clip(frame, 0, [cell.width - 1, cell.height - 1] * 2)  # dark outside, also at the edge of the cell
    pen = ImageDraw.Draw(cell)
    pen.rectangle(list(frame), outline=style.INK, width=4)
    pen.rectangle(list(frame + [1, 1, -1, -1]), outline=style.PAPER, width=2)
    return cell
