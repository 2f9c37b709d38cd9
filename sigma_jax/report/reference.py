"""Compares a run with reference runs: where its curves leave the band that several seeds span, and what that may mean.

A reference is a folder: `reference.json` (the config the runs share, command, commit, date) and one `*.jsonl` for each
seed with the lines of that run's metrics. Values are smoothed by a running median before they are compared, since a
single step says little.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigma_jax.report import style
from sigma_jax.report.curves import read_metrics
from sigma_jax.runtime.config import diff_configs
from sigma_jax.runtime.errors import InvalidValue, NotThere

Curve = tuple[np.ndarray, np.ndarray]  # steps int [n] ascending, values float [n]

WINDOW = 5  # points of the running median
LASTING = 3  # so many points in a row outside the band are a departure
# A run is comparable when these settings agree; every other difference is listed and the curves are compared.
SAME_EXPERIMENT = (
    *("task", "model.", "objective.target", "objective.mask_", "objective.num_prototypes"),
    "objective.projection_widths",
)
SAME_LENGTH = ("batch_size", "total_")
FREE = ("seed", "data.num_workers", "data.cache_decoded", "log_every_", "checkpoint.", "mesh.", "evals.", "compute.")


class Watched(NamedTuple):
    """A metric that is compared with its band.

    title: its name in words. margin: smallest half-width of the band; with `is_ratio` the band is `1 + margin` times
    wider on each side, for quantities that vary over orders of magnitude. above, below: what it may mean that a curve
    lies above or below its band.
    """

    title: str
    margin: float
    above: str
    below: str
    is_ratio: bool = False


_COLLAPSE = "features collect on few prototypes: lower the learning rate, or raise the batch"
_FLAT = "assignments are spread more evenly than features allow: epsilon may be too high, or masks too alike"
WATCHED = {
    "loss_over_lnk": Watched(
        "loss / ln K",
        0.03,
        "the predictions explain less of the assignments than they should: epsilon or temperature may be too high, or "
        "the learning rate too high or too low",
        "the assignments are easier to predict than they should be: hidden tubes may be visible to the encoder, or "
        "features may have collapsed",
    ),
    "prototypes_used_pred": Watched("prototypes in use, video model", 0.1, _FLAT, _COLLAPSE),
    "prototypes_used_proj": Watched("prototypes in use, projection network", 0.1, _FLAT, _COLLAPSE),
    "assignment_entropy_pred": Watched("assignment entropy, video model", 0.08, _FLAT, _COLLAPSE),
    "assignment_entropy_proj": Watched("assignment entropy, projection network", 0.08, _FLAT, _COLLAPSE),
    "lr": Watched(
        "learning rate",
        0.02,
        "the schedule differs: compare optim.base_lr, the warm-up and the batch size",
        "the schedule differs: compare optim.base_lr, the warm-up and the batch size",
        is_ratio=True,
    ),
    "grad_norm": Watched(
        "gradient norm",
        1.0,
        "updates are larger than they should be: the learning rate may be too high",
        "updates are smaller than they should be: the objective may carry no information",
        is_ratio=True,
    ),
    "knn/motion": Watched("k-NN, motion", 10.0, "", "frozen features separate motions less well"),
    "knn/joint": Watched("k-NN, motion and shape", 10.0, "", "frozen features separate motions and shapes less well"),
}


class Reference(NamedTuple):
    """Runs that went well, to compare others with.

    name: the folder's. config: the config they share, flat or nested. seeds: for each seed its curves by metric.
    origin: commit and date of the runs, for messages.
    """

    name: str
    config: Mapping
    seeds: Sequence[Mapping[str, Curve]]
    origin: str


class Departure(NamedTuple):
    """The first place where a curve stays outside its band for at least LASTING points.

    metric: a key of WATCHED. step: of the first of these points. value: of the smoothed curve there. low, high: the
    band there.
    """

    metric: str
    step: int
    side: str  # "above" or "below"
    value: float
    low: float
    high: float

    def sentence(self) -> str:
        """Sentence for a person: the metric, the step, the value with its band, and what it may mean."""
        watched = WATCHED[self.metric]
        meaning = watched.above if self.side == "above" else watched.below
        band = f"{self.value:.3g} there, band {self.low:.3g} to {self.high:.3g}"
        return f"{watched.title} {self.side} the band since step {self.step} ({band})" + (
            f": {meaning}" if meaning else ""
        )


def read_reference(folder: Path) -> Reference:
    """Reads a reference folder.

    Raises:
      NotThere: the folder or its reference.json is missing, or it holds no run.
      InvalidValue: reference.json is not what `write_reference` writes.
    """
    path = Path(folder) / "reference.json"
    if not path.is_file():
        raise NotThere(f"{folder} has no reference.json: expected a folder written by tools.compare --make")
    try:
        about = json.loads(path.read_text())
        config, origin = about["config"], f"commit {about['commit']}, {about['date']}"
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValue(f"{path} is no description of a reference ({error}): write it anew with --make") from error
    files = sorted(Path(folder).glob("*.jsonl"))
    if not files:
        raise NotThere(f"{folder} holds no *.jsonl of a reference run: write it anew with tools.compare --make")
    return Reference(Path(folder).name, config, [read_curves(file) for file in files], origin)


def write_reference(folder: Path, runs: Sequence[Path], about: Mapping[str, str]) -> None:
    """Makes a reference of finished runs that differ in their seed only.

    Args:
      runs: folders of runs, each with config.json and metrics.jsonl.
      about: `commit`, `date` and `command` of the runs.

    Raises:
      InvalidValue: the runs differ in more than what FREE names.
    """
    configs = [json.loads((run / "config.json").read_text()) for run in runs]
    for run, config in zip(runs[1:], configs[1:], strict=True):
        different = [line for line in diff_configs(configs[0], config) if not line.startswith(FREE)]
        if different:
            raise InvalidValue(f"{runs[0]} and {run} are runs of two experiments: {'; '.join(different)}")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jsonl"):
        old.unlink()
    for config, run in zip(configs, runs, strict=True):
        curves = {name: curve for name, curve in read_curves(run / "metrics.jsonl").items() if name in WATCHED}
        rows: dict[int, dict[str, float]] = {}
        for name, (steps, values) in curves.items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                rows.setdefault(step, {"step": step})[name] = float(f"{value:.5g}")
        lines = [json.dumps(rows[step]) for step in sorted(rows)]
        (folder / f"seed{config['seed']}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "reference.json").write_text(json.dumps({**about, "config": configs[0]}, indent=1) + "\n")


def read_curves(path: Path) -> dict[str, Curve]:
    """The curves of a metrics file.

    Raises:
      NotThere: no such file. InvalidValue: not one line of it can be read.
    """
    if not Path(path).is_file():
        raise NotThere(f"{path} does not exist: a run writes it at its first log line")
    try:
        return read_metrics(path)
    except ValueError as error:
        raise InvalidValue(str(error)) from error


def differences(recorded: Mapping, reference: Reference) -> list[str]:
    """Settings in which a run differs from its reference, without those of FREE (seed, speed, logging, places).

    Args:
      recorded: the run's config.json.

    Raises:
      InvalidValue: the run is of another experiment, so that its curves cannot be compared; lists the differences.
    """
    lines = [line for line in diff_configs(reference.config, recorded) if not line.startswith(FREE)]
    foreign = [line for line in lines if line.startswith(SAME_EXPERIMENT + SAME_LENGTH)]
    if foreign:
        raise InvalidValue(
            f"the reference {reference.name} is of another experiment than this run ({'; '.join(foreign)}): give a "
            "reference of the same config, or make one with --make"
        )
    return lines


def departures(run: Mapping[str, Curve], reference: Reference) -> list[Departure]:
    """The departures of a run's curves from the bands of a reference, the earliest first.

    Raises:
      InvalidValue: the run and the reference have no step of a watched metric in common.
    """
    found, compared = [], 0
    for name in WATCHED:
        shared = _band(name, run, reference)
        if shared is None:
            continue
        compared += 1
        steps, values, low, high = shared
        for side, outside in (("above", values > high), ("below", values < low)):
            first = _lasting(outside)
            if first is not None:
                found.append(Departure(name, int(steps[first]), side, values[first], low[first], high[first]))
    if not compared:
        raise InvalidValue(
            f"the run logged none of {', '.join(WATCHED)} at a step of the reference {reference.name}: let it run to "
            "its first log lines, with the log_every of the reference"
        )
    return sorted(found, key=lambda departure: departure.step)


def _band(name: str, run: Mapping[str, Curve], reference: Reference):
    """(steps, smoothed values of the run, low, high) at the steps that the run and all seeds have; None for none."""
    seeds = [seed[name] for seed in reference.seeds if name in seed]
    if name not in run or len(seeds) < len(reference.seeds):
        return None
    steps = sorted(set.intersection(*(set(curve[0].tolist()) for curve in (run[name], *seeds))))
    if not steps:
        return None
    own, *others = (_smoothed(_at(curve, steps)) for curve in (run[name], *seeds))
    stack, watched = np.array(others), WATCHED[name]
    low, high = stack.min(axis=0), stack.max(axis=0)
    if watched.is_ratio:
        spread = np.maximum(1 + watched.margin, high / np.maximum(low, 1e-30))
        return np.array(steps), own, low / spread, high * spread
    margin = np.maximum(watched.margin, high - low)
    return np.array(steps), own, low - margin, high + margin


def _at(curve: Curve, steps: Sequence[int]) -> np.ndarray:
    place = np.searchsorted(curve[0], steps)
    return curve[1][place]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Running median over WINDOW points, fewer at the ends."""
    half = WINDOW // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def _lasting(outside: np.ndarray) -> int | None:
    """Index of the first of LASTING True values in a row (fewer where the curve has fewer points)."""
    needed = min(LASTING, len(outside))
    for first in range(len(outside) - needed + 1):
        if outside[first : first + needed].all():
            return first
    return None


def write_bands(path: Path, run: Mapping[str, Curve], reference: Reference) -> Path:
    """Draws every compared curve over its band, as a PNG."""
    from matplotlib.figure import Figure  # takes a second to import: only here

    shown = {name: band for name in WATCHED if (band := _band(name, run, reference)) is not None}
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, (steps, values, low, high)) in zip(axes, shown.items(), strict=False):
        axis.fill_between(steps, low, high, color=style.MUTED, alpha=0.2, linewidth=0, label="reference")
        outside = (values < low) | (values > high)
        axis.plot(steps, values, color=style.BLUE, linewidth=1.6, label="this run")
        axis.plot(steps[outside], values[outside], "o", color=style.ORANGE, markersize=3, label="outside")
        axis.set_title(WATCHED[name].title, loc="left", fontsize=11, fontweight="bold")
        axis.set_xlabel("step")
        axis.set_yscale("log" if WATCHED[name].is_ratio and (values > 0).all() and (low > 0).all() else "linear")
        axis.grid(color=style.RULE)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=9)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
