"""A confusion matrix as a picture: rows true classes, columns predicted ones, shade = share of the row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sigma_jax.report import style

NAMED = 40  # with more classes, names would not be legible


def write_confusion(path: Path, matrix: np.ndarray, names: Sequence[str] = ()) -> Path:
    """Writes `matrix` int [C C] (rows: true) as a PNG; `names` are the classes, in order, if they have any."""
    from matplotlib.figure import Figure  # takes a second to import: only here

    count = len(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(5.0, 0.32 * count), 14.0)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axis = figure.add_subplot()
    image = axis.imshow(100 * share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if names and count <= NAMED:
        axis.set_xticks(range(count), names, rotation=90, fontsize=7)
        axis.set_yticks(range(count), names, fontsize=7)
    axis.set_title(f"{matrix.sum()} videos, {count} classes", loc="left", color=style.INK)
    figure.colorbar(image, ax=axis, label="share of the true class, %", shrink=0.8)
    figure.savefig(path, dpi=120)
    return path
