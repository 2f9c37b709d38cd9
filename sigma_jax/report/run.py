"""The report of a run, report.html: curves, clips with their masks, tubes closest to prototypes, a confusion matrix."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from sigma_jax.evals.classification_scores import confusion_matrix
from sigma_jax.ops.masking import mask_of
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.report.clips import write_animation, write_clips
from sigma_jax.report.confusion import write_confusion
from sigma_jax.report.curves import write_curves
from sigma_jax.report.page import Picture, RunPage, write_page
from sigma_jax.report.prototypes import write_prototypes
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.base import Examples, Place, Task

_SHOWN = ("top1", "top5", "mean_per_class", "map", "relative_error", "oboa")
NUM_CLIPS = 32  # clips among which the closest tubes of a prototype are searched
CURVES = "Loss, prototype use and speed over the steps. At a loss / ln K of 1 the assignments carry no information."
CLIPS = "What the video model is given: frames above, and below them the same frames with hidden tubes grey."
CONFUSION = "Rows: true class. Columns: predicted class. Shade: share of the row."
TUBES = "The hidden tubes whose projections are closest to the most used prototypes, with the pixels around them."


class Trained(NamedTuple):
    """Result of a run: the task, its parameters after `step` updates, its frozen parameters and the run's seed."""

    task: Task
    params: Params
    frozen: Params
    step: int
    seed: int


def write_report(trained: Trained, place: Place, more: Sequence[Picture] = ()) -> Path | None:
    """Writes workdir/pictures and workdir/report.html from the run's files, its parameters and a few of its clips.

    In a run of several processes all must call it: parameters are gathered, and process 0 draws.

    Args:
      trained: what the run has made.
      place: the run's folder and its data.
      more: further pictures for the page.

    Returns:
      Path of the page; None on every process but the first.
    """
    task, workdir = trained.task, place.workdir
    drawn = {name: trained.params[name] for name in task.drawn_params if name in trained.params}
    weights = _on_this_host(drawn, trained.frozen)
    if jax.process_index():
        return None
    folder = workdir / "pictures"
    folder.mkdir(exist_ok=True)
    plan = json.loads((workdir / "plan.json").read_text())
    curves = write_curves(folder / "curves.png", workdir / "metrics.jsonl")
    pictures = [Picture(curves, "Curves of loss, prototype use, gradient norm and speed over steps", CURVES)]
    examples = task.examples(place, min(NUM_CLIPS, plan["num_records"]), trained.seed, weights)
    if examples is not None:
        pictures += clip_pictures(folder, task.grid, examples)
    confusion = draw_confusion(workdir)
    if confusion is not None:
        pictures.append(Picture(confusion, "Matrix of true and predicted classes", CONFUSION))
    page = RunPage(
        title=f"SIGMA run: {workdir.name}",
        summary=f"{trained.step:,} steps of {plan['batch_size']} on {plan['num_devices']} {plan['platform']} "
        f"device(s), {task.summary}.",
        command=(workdir / "command.txt").read_text().strip(),
        config=(workdir / "config.json").read_text(),
        versions=json.loads((workdir / "versions.json").read_text()),
        results=_results(workdir),
        warnings=_warnings(workdir),
        pictures=[*pictures, *more],
    )
    return write_page(workdir / "report.html", page)


def _on_this_host(*trees: Params) -> tuple[Params, ...]:
    """The trees with arrays that this process can read, also where they were sharded over several processes."""
    return trees if jax.process_count() == 1 else multihost_utils.process_allgather(trees, tiled=True)


def _results(workdir: Path) -> list[dict[str, str | float]]:
    """Rows that tools.probe or the multi-view test left in the workdir, if they ran."""
    probe, test = workdir / "probe.json", workdir / "eval" / "result.json"
    if probe.is_file():
        return json.loads(probe.read_text())["rows"]
    if not test.is_file():
        return []
    result = json.loads(test.read_text())
    numbers = {name: result[name] for name in _SHOWN if name in result}
    views = f"{result['split']}, {result['num_views']} x {result['num_crops']} views"
    return [{"split": views, "videos": result["num_videos"], **numbers}]


def _warnings(workdir: Path) -> list[str]:
    """The warnings of the run's health checks (train/health.py), each with its step."""
    path = workdir / "warnings.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [f"step {row['step']}: {row['warning']}" for row in rows]


def clip_pictures(folder: Path, grid: TubeGrid, examples: Examples) -> list[Picture]:
    """Clips with masks, as a picture and an animation, and the tubes closest to the most used prototypes."""
    video, masked_idx, scores = examples
    mask = np.asarray(mask_of(masked_idx, grid.num_tubes))
    still = write_clips(folder / "clips.png", video, mask, grid.tube_size)
    moving = write_animation(folder / "clips.gif", video, mask, grid.tube_size)
    pictures = [
        Picture(still, "Frames of four clips, and the same frames with hidden tubes grey", CLIPS),
        Picture(moving, "The same clips moving", "The same clips, moving."),
    ]
    if scores is not None:
        path = write_prototypes(folder / "prototypes.png", video, scores, grid.tube_size, tube_idx=masked_idx)
        pictures.append(Picture(path, "Rows of similar tubes, one row per prototype", TUBES))
    return pictures


def draw_confusion(workdir: Path) -> Path | None:
    """workdir/eval/confusion.png from the scores of a multi-view test; None where there was none."""
    scores = workdir / "eval" / "scores.npz"
    if not scores.is_file():
        return None
    with np.load(scores) as arrays:
        probabilities, labels = arrays["probabilities"], arrays["labels"]
        classes = arrays["classes"].tolist() if "classes" in arrays else ()  # files of older versions have none
    if labels.ndim > 1:  # several labels a video
        return None
    matrix = confusion_matrix(probabilities.argmax(axis=1), labels, probabilities.shape[1])
    return write_confusion(scores.with_name("confusion.png"), matrix, classes)
