"""The pictures and the page of a run: curves, clips with their masks, what prototypes stand for.

Letters: B clips, M hidden tubes, E target width, K prototypes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sigma_jax.data.clips import ClipSpec
from sigma_jax.data.loader import LoaderSpec, Shuffled, open_loader
from sigma_jax.models.prototypes import constrain, cosine_scores
from sigma_jax.ops.masking import mask_of, sample_mask
from sigma_jax.report.clips import write_animation, write_clips
from sigma_jax.report.curves import write_curves
from sigma_jax.report.page import Picture, RunPage, write_page
from sigma_jax.report.prototypes import write_prototypes
from sigma_jax.runtime.random import stream
from sigma_jax.train.decoding import decoding_of
from sigma_jax.train.setup import Run
from sigma_jax.train.state import TrainState
from sigma_jax.train.tasks import PretrainTask

NUM_CLIPS = 32  # looked at for prototypes
DRAWN = ("projection", "prototypes")  # parameters that the pictures need
CURVES = "How loss, prototype use and speed went. At a loss / ln K of 1 assignments carry no information."
CLIPS = "What the video model is given: frames above, and below them the same with hidden tubes grey."
CONFUSION = "Which classes are taken for which: rows true, columns predicted, shade the share of the row."
TUBES = "The hidden tubes that the projection network puts closest to the most used prototypes, in their surroundings."


def write_report(run: Run, state: TrainState, more: Sequence[Picture] = ()) -> Path | None:
    """Pictures into workdir/pictures and report.html, from the run's files, its state and a few clips of its data.

    In a run of several processes all must call it: they gather what is drawn, and the first one draws.

    Args:
      more: pictures to show as well.

    Returns:
      Path of the page; None on every process but the first.
    """
    params, frozen = _on_this_host({name: state.params[name] for name in DRAWN if name in state.params}, run.frozen)
    if jax.process_index():
        return None
    folder = Path(run.workdir) / "pictures"
    folder.mkdir(exist_ok=True)
    curves = write_curves(folder / "curves.png", run.workdir / "metrics.jsonl")
    pictures = [Picture(curves, "Curves of loss, prototype use, gradient norm and speed over steps", CURVES)]
    if isinstance(run.task, PretrainTask):
        pictures += clip_pictures(run, folder, *_sample(run), params=params, frozen=frozen)
    elif (confusion := run.workdir / "eval" / "confusion.png").is_file():
        pictures.append(Picture(confusion, "Matrix of true and predicted classes", CONFUSION))
    pictures += more
    versions = json.loads((run.workdir / "versions.json").read_text())
    page = RunPage(
        title=f"SIGMA run: {Path(run.workdir).name}",
        summary=f"{int(state.step):,} steps, {_aim(run)}. " + run.plan.describe()[1] + ".",
        command=(run.workdir / "command.txt").read_text().strip(),
        config=(run.workdir / "config.json").read_text(),
        versions=versions,
        results=_results(run.workdir),
        pictures=pictures,
    )
    return write_page(run.workdir / "report.html", page)


def _on_this_host(*trees: Any) -> Any:
    """Whole arrays that this process can use alone, whatever devices of whatever process they are spread over."""
    return trees if jax.process_count() == 1 else multihost_utils.process_allgather(trees, tiled=True)


def _aim(run: Run) -> str:
    if isinstance(run.task, PretrainTask):
        return f"target {run.task.target}"
    return f"{run.config.task.replace('_', ' ')} on {run.config.data.name}, {run.task.num_classes} classes"


def _results(workdir: Path) -> list[dict[str, Any]]:
    """Rows that tools.probe or the multi-view test left in the workdir, if they ran."""
    probe, test = workdir / "probe.json", workdir / "eval" / "result.json"
    if probe.is_file():
        return json.loads(probe.read_text())["rows"]
    if not test.is_file():
        return []
    result = json.loads(test.read_text())
    numbers = {name: result[name] for name in ("top1", "top5", "mean_per_class") if name in result}
    views = f"{result['split']}, {result['num_views']} x {result['num_crops']} views"
    return [{"split": views, "videos": result["num_videos"], **numbers}]


def _sample(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """video [B F y x 3] of a few random records, and their masks as visible_idx and masked_idx."""
    config = run.config
    clips = ClipSpec(config.model.num_frames, config.data.frame_stride, config.model.image_size, config.data.crop)
    order, batch = Shuffled(config.seed, max_bad_fraction=1.0), min(NUM_CLIPS, run.plan.num_records)
    spec = LoaderSpec(run.data_dir, config.data.split, clips, order, batch, decoding=decoding_of(config))
    loader = open_loader(spec)
    video = next(loader)["video"]
    loader.close()
    visible_idx, masked_idx = sample_mask(stream(config.seed, "report"), len(video), run.task.grid, run.task.mask_kind)
    return video, np.asarray(visible_idx), np.asarray(masked_idx)


def clip_pictures(
    run: Run,
    folder: Path,
    video: np.ndarray,
    visible_idx: np.ndarray,
    masked_idx: np.ndarray,
    *,
    params: Any,
    frozen: Any,
) -> list[Picture]:
    """Clips with masks, as a picture and an animation, and the top tubes of the most used prototypes."""
    grid = run.task.grid
    mask = np.asarray(mask_of(masked_idx, grid.num_tubes))
    still = write_clips(folder / "clips.png", video, mask, grid.tube_size)
    moving = write_animation(folder / "clips.gif", video, mask, grid.tube_size)
    pictures = [
        Picture(still, "Frames of four clips, and the same frames with hidden tubes grey", CLIPS),
        Picture(moving, "The same clips moving", "The same clips, moving."),
    ]
    if run.task.objective == "sigma":
        scores = projection_scores(run.task, params, frozen, video, masked_idx)
        path = write_prototypes(folder / "prototypes.png", video, scores, grid.tube_size, tube_idx=masked_idx)
        pictures.append(Picture(path, "Rows of similar tubes, one row per prototype", TUBES))
    return pictures


def projection_scores(
    task: PretrainTask, params: Any, frozen: Any, video: np.ndarray, masked_idx: np.ndarray
) -> np.ndarray:
    """Cosine of each hidden tube's projection with each prototype, [B M K]."""

    @jax.jit
    def scores(params, frozen, video, masked_idx):
        params = constrain(params)
        targets = task.targets(frozen, {"video": video}, masked_idx)
        projections = task.model.apply({"params": params}, targets, method="project")
        flat = cosine_scores(projections.reshape(-1, projections.shape[-1]), params["prototypes"])
        return flat.reshape(*masked_idx.shape, -1)

    return np.asarray(scores(params, frozen, video, masked_idx))
