"""The SEVERE table as a picture: one panel per score, one bar per method."""

from collections.abc import Sequence
from pathlib import Path

from sigma_jax.evals.severe.table import SCORES, Row
from sigma_jax.report import style


def write_severe(path: Path, rows: Sequence[Row], highlighted: int) -> Path:
    """Writes a PNG; a score that a row lacks has no bar.

    Args:
      rows: methods, from top to bottom.
      highlighted: how many rows at the end are ours.
    """
    from matplotlib.figure import Figure  # takes a second to import: only here

    figure = Figure(figsize=(13.0, 2.4 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots(3, 3, sharey=True).ravel()
    colors = [style.MUTED] * (len(rows) - highlighted) + [style.BLUE] * highlighted
    panels = [(score.title, [row.values.get(score.name) for row in rows], score.show) for score in SCORES]
    panels.append(("Mean", [row.mean for row in rows], SCORES[0].show))
    for axis, (title, values, show) in zip(axes, panels, strict=True):
        axis.barh(range(len(rows)), [value or 0.0 for value in values], color=colors)
        for position, value in enumerate(values):
            axis.text(value or 0.0, position, f" {show(value)}", va="center", fontsize=8, color=style.INK)
        axis.set_yticks(range(len(rows)), [row.method for row in rows], fontsize=8)
        axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=120)
    return path
