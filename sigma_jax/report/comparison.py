"""Curves of several arms of an experiment in the same axes: the mean over seeds and their range."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sigma_jax.report import style
from sigma_jax.report.curves import read_metrics

PANELS = {  # metric: (title, unit, log scale)
    "knn/motion": ("Motion: k-NN on frozen features", "top-1, %", False),
    "knn/joint": ("Motion and shape: k-NN on frozen features", "top-1, %", False),
    "loss_over_lnk": ("Loss relative to chance", "loss / ln K", False),
    "target_spread": ("Spread of learned targets", "standard deviation", True),
}


def write_comparison(path: Path, arms: Mapping[str, Sequence[Path]]) -> Path:
    """Writes a PNG with one axis per metric of PANELS that some arm logged.

    Args:
        arms: name -> metrics.jsonl of each seed.

    Raises:
        ValueError: none of the arms logged any of the metrics.
    """
    from matplotlib.figure import Figure  # takes a second to import: only here

    metrics = {name: [read_metrics(file) for file in files] for name, files in arms.items()}
    shown = [key for key in PANELS if any(key in seed for seeds in metrics.values() for seed in seeds)]
    if not shown:
        raise ValueError(f"no arm of {sorted(arms)} logged any of {list(PANELS)}")
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(6.2 * columns, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, key in zip(axes, shown, strict=False):
        for position, (name, seeds) in enumerate(metrics.items()):
            curves = [seed[key] for seed in seeds if key in seed]
            if curves:
                _draw(axis, name, curves, style.SERIES[position % len(style.SERIES)])
        title, unit, is_log = PANELS[key]
        axis.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axis.set_xlabel("step")
        axis.set_ylabel(unit)
        axis.set_yscale("log" if is_log else "linear")
        axis.grid(color=style.RULE)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=120)
    return path


def _draw(axis, name: str, curves: Sequence[tuple[np.ndarray, np.ndarray]], color: str) -> None:
    """Mean line and min-max band over the steps that all seeds have."""
    steps = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
    values = np.array([[dict(zip(s.tolist(), v, strict=True))[step] for step in steps] for s, v in curves])
    marker = "o" if len(steps) <= 12 else None
    axis.plot(steps, values.mean(axis=0), color=color, linewidth=1.8, marker=marker, markersize=3.5, label=name)
    if len(curves) > 1:
        axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
