"""Cluster maps and masks drawn over the frames of a clip (figure 3 of the paper): a picture of three frames, a GIF.

An object has one colour in all frames and rows: clusters have the colours of the objects to which they are matched.

Letters: F frames, y x pixels.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sigma_jax.evals.segmentation import matching
from sigma_jax.report import style
from sigma_jax.runtime.errors import InvalidValue

COLORS = np.array(  # told apart on photographs; number 0 is mostly background
    [
        (58, 76, 192),
        (240, 90, 60),
        (60, 190, 110),
        (250, 200, 40),
        (170, 80, 190),
        (60, 200, 220),
        (245, 130, 180),
        (150, 110, 60),
        (200, 230, 110),
        (120, 130, 140),
    ],
    np.float32,
)
ALPHA = 0.5
CELL = 224  # px of a frame
NAMES = 150  # px of the names of the rows
HEADER = 50  # px of the names above an animation, two lines


def object_numbers(labels: np.ndarray) -> np.ndarray:
    """Objects numbered from 0 in the order of their labels; negative labels stay -1. int [F y x]."""
    return np.where(labels >= 0, np.searchsorted(np.unique(labels[labels >= 0]), labels), -1)


def cluster_numbers(cluster_map: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Clusters numbered like the objects that they match one to one (Hungarian); others follow, large ones first.

    Args:
      cluster_map, labels: int [F y x]; pixels with negative labels do not count.
    """
    counts = labels >= 0
    objects, clusters, pixels = matching.overlap(labels[counts], cluster_map[counts])
    rows, columns = matching.one_to_one(pixels)
    number_of = {int(clusters[column]): int(row) for row, column in zip(rows, columns, strict=True)}
    found, sizes = np.unique(cluster_map, return_counts=True)
    left_over = [int(found[i]) for i in np.argsort(-sizes, kind="stable") if int(found[i]) not in number_of]
    number_of |= {cluster: len(objects) + i for i, cluster in enumerate(left_over)}
    return np.array([number_of[int(cluster)] for cluster in found])[np.searchsorted(found, cluster_map)]


def tint(frames: np.ndarray, numbers: np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """(1 - alpha) * frame + alpha * colour of its number: uint8 [... y x 3]. Negative numbers leave the frame as it is.

    Raises:
      InvalidValue: numbers [... y x] of another shape than the frames.
    """
    if frames.shape[:-1] != numbers.shape:
        raise InvalidValue(f"frames are {frames.shape}, numbers {numbers.shape}; expected [... y x 3] and [... y x]")
    mixed = np.round((1 - alpha) * frames + alpha * COLORS[numbers % len(COLORS)]).astype(np.uint8)
    return np.where((numbers < 0)[..., None], frames, mixed)


def write_overlays(path: Path, video: np.ndarray, rows: Mapping[str, np.ndarray], *, num_frames: int = 3) -> Path:
    """Writes a PNG: a row per entry of `rows`, in each the first, the middle and the last frame.

    Args:
      video: uint8 [F y x 3].
      rows: name -> numbers of colours int [F y x], from `cluster_numbers` or `object_numbers`.
      num_frames: columns.
    """
    shown = np.round(np.linspace(0, len(video) - 1, min(num_frames, len(video)))).astype(int)
    width, height = style.fit(video[0], CELL).size
    picture, pen = style.canvas(
        2 * style.MARGIN + NAMES + len(shown) * (width + style.GAP) - style.GAP,
        2 * style.MARGIN + len(rows) * (height + style.GAP) - style.GAP,
    )
    for row, (name, numbers) in enumerate(rows.items()):
        top = style.MARGIN + row * (height + style.GAP)
        style.write_wrapped(pen, (style.MARGIN, top + style.TEXT), name, NAMES - style.GAP)
        for column, frame in enumerate(shown):
            left = style.MARGIN + NAMES + column * (width + style.GAP)
            picture.paste(style.fit(tint(video[frame], numbers[frame]), CELL), (left, top))
    picture.save(path)
    return path


def write_overlay_animation(path: Path, video: np.ndarray, rows: Mapping[str, np.ndarray]) -> Path:
    """Writes an endless GIF: the frames, and beside them the same frames tinted with each entry of `rows`.

    Arguments as in `write_overlays`.
    """
    width, height = style.fit(video[0], CELL).size
    pictures, names = [], ["frames", *rows]
    for i, frame in enumerate(video):
        panels = [frame, *(tint(frame, numbers[i]) for numbers in rows.values())]
        picture, pen = style.canvas(len(panels) * (width + style.GAP) - style.GAP, height + HEADER)
        for column, (name, panel) in enumerate(zip(names, panels, strict=True)):
            left = column * (width + style.GAP)
            style.write_wrapped(pen, (left, style.TEXT), name, width - 2 * style.GAP)
            picture.paste(style.fit(panel, CELL), (left, HEADER))
        pictures.append(picture)
    return style.save_animation(path, pictures)
