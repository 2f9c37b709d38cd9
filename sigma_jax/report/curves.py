"""Curves of a run from its metrics.jsonl: loss, health of the prototypes, optimisation, speed, evaluations."""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from sigma_jax.report import style
from sigma_jax.runtime.errors import InvalidValue


class Panel(NamedTuple):
    """One axis: which metrics it shows and how. A metric belongs to the first panel whose pattern it matches."""

    title: str
    pattern: str  # searched in the metric's name
    unit: str = ""
    is_log: bool = False
    is_share: bool = False  # the axis runs from 0 to 1
    is_exact: bool = False  # without noise: not smoothed
    reference: tuple[float, str] | None = None  # (height of a dashed line, what it means)


PANELS = (
    Panel("Loss relative to chance", r"^loss_over_lnk$", "loss / ln K", reference=(1.0, "knows nothing")),
    Panel("Loss", r"(^|_)loss(_|$)"),
    Panel("Prototypes in use", r"prototypes_used", "share of K", is_share=True),
    Panel("Assignment entropy", r"assignment_entropy", "share of ln K", is_share=True),
    Panel("Sinkhorn marginal error", r"marginal_error", "relative"),
    Panel("Spread of learned targets", r"^target_spread$", "standard deviation, log scale", is_log=True),
    Panel("Gradient norm", r"^grad_norm$", "L2, log scale", is_log=True),
    Panel("Learning rate", r"^lr$", is_exact=True),
    Panel("Throughput", r"^clips_per_s$", "clips / s"),
    Panel("Waiting for data", r"^data_wait_ms$", "ms per step"),
    Panel("Accuracy", r"^(val|test)/", "%"),
    Panel("k-NN on frozen features", r"^knn/", "top-1, %"),
    Panel("Objects in clusters of frozen features", r"^segmentation/", "mIoU, %"),
    Panel("Linear probe on frozen features", r"^linear/", "top-1, %"),
)
COLUMNS = 3
SMOOTH_FROM = 80  # points; longer curves are drawn with their running mean


def read_metrics(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads metrics.jsonl, one JSON object per line with a `step` and numbers.

    Of a step that occurs twice (a resumed run repeats some) the last line counts; incomplete lines of a killed run are
    skipped, with a warning; values that are not numbers are ignored.

    Returns:
        metric -> (steps int [n] ascending, values float [n]).

    Raises:
        ValueError: no line could be read.
    """
    series: dict[str, dict[int, float]] = {}
    num_broken = 0
    for line in Path(path).read_text().splitlines():
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (json.JSONDecodeError, KeyError, TypeError):
            num_broken += 1
            continue
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                series.setdefault(name, {})[step] = float(value)
    if num_broken:
        logging.warning("%s: skipped %d lines that are no JSON object with a step", path, num_broken)
    if not series:
        raise InvalidValue(f'{path} holds no metrics; expected lines such as {{"step": 10, "loss": 4.85}}')
    return {
        name: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for name, points in series.items()
    }


def write_curves(path: Path, metrics_path: Path) -> Path:
    """Writes a PNG with one axis per panel that has data.

    Raises:
        ValueError: no line could be read, or none of the metrics belongs to a panel.
    """
    import matplotlib as mpl  # takes a second to import: only here
    from matplotlib.figure import Figure

    metrics = read_metrics(metrics_path)
    panels = [(panel, names) for panel, names in _assign(metrics).items() if names]
    if not panels:
        raise InvalidValue(f"{metrics_path} holds {sorted(metrics)}; none of them belongs to a panel")
    last_step = max(steps[-1] for steps, _ in metrics.values())
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    look = {
        "font.size": 10,
        "axes.edgecolor": style.MUTED,
        "axes.labelcolor": style.MUTED,
        "text.color": style.INK,
        "xtick.color": style.MUTED,
        "ytick.color": style.MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlepad": 10,
        "axes.grid": True,
        "grid.color": style.RULE,
        "axes.axisbelow": True,
    }
    with mpl.rc_context(look):
        figure = Figure(figsize=(4.6 * columns, 3.1 * rows), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (panel, names) in zip(axes, panels, strict=False):
            _draw(axis, panel, {name: metrics[name] for name in names})
            axis.set_xlim(-0.03 * last_step, 1.03 * max(1, last_step))  # the same for all, to be read together
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        figure.savefig(path, dpi=120)
    return path


def _assign(metrics) -> dict[Panel, list[str]]:
    """Panel -> the metrics it shows, in the order they were logged."""
    panels = {panel: [] for panel in PANELS}
    for name in metrics:
        panel = next((panel for panel in PANELS if re.search(panel.pattern, name)), None)
        if panel:
            panels[panel].append(name)
    return panels


def _name_and_color(metric: str, position: int) -> tuple[str, str]:
    """Legend entry and colour; the two sides of the method keep theirs in every panel."""
    parts = re.split(r"[_/]", metric)
    if "pred" in parts:
        return "prediction side", style.BLUE
    if "proj" in parts:
        return "projection side", style.ORANGE
    if metric.startswith(("knn/", "linear/", "segmentation/")):
        return metric.split("/", 1)[1], style.SERIES[position % len(style.SERIES)]
    return metric.replace("_", " "), (style.INK, *style.SERIES[2:])[position % (len(style.SERIES) - 1)]


def _draw(axis, panel: Panel, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for position, (metric, (steps, values)) in enumerate(curves.items()):
        name, color = _name_and_color(metric, position)
        marker = "o" if len(steps) <= 12 else None
        if len(steps) > SMOOTH_FROM and not panel.is_exact:
            axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            values = _running_mean(values, len(steps) // 30)
        axis.plot(steps, values, color=color, linewidth=1.6, marker=marker, markersize=3.5, label=name)
    if panel.reference:
        height, meaning = panel.reference
        axis.axhline(height, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axis.annotate(
            meaning,
            (1, height),
            xycoords=axis.get_yaxis_transform(),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            color=style.MUTED,
            fontsize=9,
        )
    if panel.is_log and all((values[np.isfinite(values)] > 0).all() for _, values in curves.values()):
        axis.set_yscale("log")
    elif panel.is_share:
        axis.set_ylim(0, 1.03)
    axis.set_title(panel.title)
    axis.set_ylabel(panel.unit)
    axis.set_xlabel("step")
    axis.xaxis.get_major_locator().set_params(nbins=5, integer=True)
    axis.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    if len(curves) > 1:
        axis.legend(frameon=False, fontsize=9, labelcolor=style.INK, handlelength=1.4, ncols=math.ceil(len(curves) / 4))


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over a centred window of `width` points, of the finite ones; the window shrinks at the ends."""
    kernel = np.ones(2 * (width // 2) + 1)
    is_finite = np.isfinite(values)
    counts = np.convolve(is_finite, kernel, mode="same")
    sums = np.convolve(np.where(is_finite, values, 0), kernel, mode="same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=is_finite & (counts > 0))
