"""Measurements of a classifier: one central view while it trains, the multi-view test at the end, and their files."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sigma_jax.checkpoints.content_hash import content_hash
from sigma_jax.checkpoints.manager import Checkpointer, CheckpointError, read_meta
from sigma_jax.data.metadata import write_json
from sigma_jax.datasets.classes import read_classes
from sigma_jax.evals.classification_scores import confusion_matrix, summarize
from sigma_jax.evals.multi_view import MERGE_RULE, VideoScores, score_videos
from sigma_jax.report.confusion import write_confusion
from sigma_jax.runtime.durations import resolve_duration
from sigma_jax.runtime.sharding import shard_batch, traced_on
from sigma_jax.train.classification_data import open_views
from sigma_jax.train.classification_task import ClassificationTask
from sigma_jax.train.evaluation import Scheduled
from sigma_jax.train.optimizer import evaluated_params
from sigma_jax.train.state import TrainState

VIEW_KEYS = ("video", "label", "record", "weight", "key")
Measured = tuple[VideoScores, list[dict]]


class Bench(NamedTuple):
    """What a measurement needs: a part of a Run, or all there is in eval mode (then without a plan)."""

    config: Any
    workdir: Path
    data_dir: str
    task: ClassificationTask
    mesh: Mesh
    steps_per_epoch: int = 0  # 0: eval mode
    source: str = ""  # where the weights are from, in eval mode


def build_measurements(run: Any) -> tuple[Scheduled, ...]:
    """Of a training run: validation, which keeps the best weights, and the test of the last ones."""
    bench = Bench(run.config, run.workdir, run.data_dir, run.task, run.mesh, run.plan.steps_per_epoch)
    forward = forward_fn(run.task, run.mesh)
    every = resolve_duration(run.config.evals, "val_every", steps_per_epoch=run.plan.steps_per_epoch)
    best = BestWeights(run.workdir / "best", run.meta)

    def validate(state: TrainState, step: int) -> Iterator[tuple[str, float]]:
        params = evaluated_params(state.params, state.opt_state)
        scores, _ = measure(bench, forward, params, (1, 1), run.config.data.val_split)
        numbers = summarize(scores.probabilities, scores.labels)
        best.offer(step, params, numbers["top1"])
        yield from ((f"val/{name}", value) for name, value in numbers.items())

    test = Scheduled("test", 0, lambda state, step: run_test(bench, forward, state, step))
    return Scheduled("validation", every, validate), test


def build_test(bench: Bench) -> Scheduled:
    """The multi-view test alone (eval mode)."""
    forward = forward_fn(bench.task, bench.mesh)
    return Scheduled("test", 0, lambda state, step: run_test(bench, forward, state, step))


def forward_fn(task: ClassificationTask, mesh: Mesh) -> Callable[[Any, Mapping[str, Any]], Mapping[str, np.ndarray]]:
    """(params, this process's rows) -> the rows of all processes, with logits in place of the video."""

    def forward(params, batch):
        rest = {name: rows for name, rows in batch.items() if name != "video"}
        return rest | {"logits": task.classify(params, batch["video"])}

    compiled = jax.jit(traced_on(mesh, forward), out_shardings=NamedSharding(mesh, P()))

    def run(params, batch):
        rows = {name: batch[name] for name in VIEW_KEYS}
        return jax.device_get(compiled(params, shard_batch(mesh, rows | {"record": rows["record"].astype(np.int32)})))

    return run


def measure(bench: Bench, forward: Callable, params: Any, views: tuple[int, int], split: str) -> Measured:
    """Scores of every video of a split, and the records that could not be read, with reasons."""
    loader = open_views(bench.config, bench.data_dir, split, views, bench.mesh.size)
    try:
        scores = score_videos(loader, lambda batch: forward(params, batch), views[0] * views[1])
        known = {entry["record"]: entry for entry in loader.bad_records}
    finally:
        loader.close()
    elsewhere = {"key": "", "reason": "unreadable; the log of another process says why"}
    return scores, [{"record": record, **known.get(record, elsewhere)} for record in scores.unreadable]


def run_test(bench: Bench, forward: Callable, state: TrainState, step: int) -> Iterator[tuple[str, float]]:
    """Multi-view test; writes result, scores and confusion matrix below workdir/eval and yields the numbers."""
    config = bench.config
    views = config.evals.num_views, config.evals.num_crops
    params = evaluated_params(state.params, state.opt_state)
    scores, unreadable = measure(bench, forward, params, views, config.data.test_split)
    numbers = summarize(scores.probabilities, scores.labels)
    weights = {"source": bench.source or str(bench.workdir), "step": step, "hash": params_hash(params)}
    if unreadable:
        logging.warning("INCOMPLETE: %d videos could not be read: %s", len(unreadable), unreadable)
    if jax.process_index() == 0:
        write_result(bench, scores, numbers, unreadable, weights)
    yield from ((f"test/{name}", value) for name, value in numbers.items())


def write_result(bench: Bench, scores: VideoScores, numbers: Mapping, unreadable: list[dict], weights: dict) -> Path:
    """result.json, scores.npz (to be merged with others' later) and confusion.png; returns the path of the JSON."""
    config, folder = bench.config, Path(bench.workdir) / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    classes = read_classes(bench.data_dir, config.data.split)
    with open(folder / "scores.npz", "wb") as file:
        np.savez(
            file,
            records=scores.records,
            keys=np.asarray(scores.keys),
            labels=scores.labels,
            probabilities=scores.probabilities.astype(np.float32),
        )
    matrix = confusion_matrix(scores.probabilities.argmax(axis=1), scores.labels, config.data.num_classes)
    write_confusion(folder / "confusion.png", matrix, classes.names)
    num_views, num_crops = config.evals.num_views, config.evals.num_crops
    short_side = config.data.short_side or config.model.image_size
    result = {
        **numbers,
        "complete": not unreadable,
        "unreadable": unreadable,
        "data_set": config.data.name,
        "split": config.data.test_split,
        "num_videos": len(scores.records),
        "num_videos_in_split": len(scores.records) + len(unreadable),
        "num_views": num_views,
        "num_crops": num_crops,
        "frames": f"{config.data.sampling}, {config.model.num_frames} frames, stride {config.data.frame_stride}",
        "crop": f"{num_crops} of {config.model.image_size} pixels along the long side, short side {short_side}",
        "merge": MERGE_RULE,
        "num_classes": config.data.num_classes,
        "label_map_hash": config.data.label_hash,
        "checkpoint": weights,
        "decisions": list(config.decisions),
        "scores_file": "scores.npz",
        "confusion_matrix": "confusion.png",
    }
    write_json(folder / "result.json", result)
    logging.info("result: %s", folder / "result.json")
    return folder / "result.json"


def params_hash(params: Any) -> str:
    """One hash of all parameters, the same on any mesh: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content_hash(params), sort_keys=True).encode()).hexdigest()[:16]


class BestWeights:
    """Keeps the parameters with the highest validation top-1 in a folder of their own; survives restarts."""

    def __init__(self, directory: Path, meta: Callable[[], dict]):
        self.directory, self.meta, self._highest = directory, meta, None

    def offer(self, step: int, params: Any, top1: float) -> None:
        """Saves `params` if they are better than what the folder holds; of equals the first stays."""
        if self._highest is None:
            self._highest = self._saved()
        if top1 <= self._highest:
            return
        checkpoints = Checkpointer(self.directory, keep_last=1, save_every_steps=1)
        try:
            meta = self.meta() | {"val_top1": top1}
            checkpoints.save(step, {"params": params}, data_state={}, meta=meta, force=True)
        finally:
            checkpoints.close()
        self._highest = top1

    def _saved(self) -> float:
        try:
            return float(read_meta(self.directory)["val_top1"])
        except CheckpointError:
            return -np.inf
