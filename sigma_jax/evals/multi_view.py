"""Multi-view testing: softmax per view, mean over the views of a video (temporal views x crops), then the class.

Exact under padding and any number of devices: every (video, view) counts once, in the order of its number. A video of
which a view could not be read is left out, named, and makes the result incomplete; nothing replaces it.

Letters: B views in a batch, C classes, n videos.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from sigma_jax.checkpoints.content_hash import content_hash
from sigma_jax.data.loader import Loader
from sigma_jax.data.metadata import write_json
from sigma_jax.evals.classification_scores import summarize
from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.sharding import shard_batch, traced_on, whole
from sigma_jax.runtime.trees import Params

MERGE_RULE = "softmax per view, arithmetic mean over views"
VIEW_KEYS = ("video", "label", "record", "weight", "key")  # of a batch, what is measured
Batch = Mapping[str, np.ndarray]
Forward = Callable[[Params, Batch], Batch]


class VideoScores(NamedTuple):
    """One row per video that was read completely, in order of the records."""

    records: np.ndarray  # int [n], number in the split
    keys: tuple[str, ...]
    labels: np.ndarray  # int [n]
    probabilities: np.ndarray  # float64 [n C]
    unreadable: tuple[int, ...]  # records that are left out


def score_videos(
    batches: Iterable[Batch], logits_fn: Callable[[Batch], Mapping[str, np.ndarray]], num_views: int
) -> VideoScores:
    """Runs a classifier over all views.

    Args:
      batches: this process's part of video, label, record, view, weight, key (data/loader.py, OnePass).
      logits_fn: batch -> the same rows of all processes, with `logits` [B C] for `video`.
      num_views: views per video.

    Raises:
      ValueError: no video at all, or a label outside the classes.
    """
    total, count, label, key = {}, {}, {}, {}
    for batch in batches:
        rows = {name: np.asarray(values) for name, values in logits_fn(batch).items()}
        probabilities = softmax(rows["logits"])
        for i, record in enumerate(rows["record"].tolist()):
            if record < 0:
                continue  # padding
            count.setdefault(record, 0)
            if rows["weight"][i] > 0:
                total[record] = total.get(record, 0.0) + probabilities[i]
                label[record], key[record] = int(rows["label"][i]), rows["key"][i]
                count[record] += 1
    complete = sorted(record for record, views in count.items() if views == num_views)
    if not complete:
        raise InvalidValue(f"nothing to measure: of {len(count)} videos in the split none could be read completely")
    labels = np.asarray([label[record] for record in complete])
    probabilities = np.stack([total[record] / num_views for record in complete])
    num_classes = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InvalidValue(
            f"labels span {labels.min()}..{labels.max()}, the head has {num_classes} classes: is this the data set "
            "(and the label map) it was trained on?"
        )
    names = tuple(bytes(key[record]).rstrip(b"\0").decode("utf-8", "backslashreplace") for record in complete)
    return VideoScores(np.asarray(complete), names, labels, probabilities, tuple(sorted(count.keys() - set(complete))))


def softmax(logits: np.ndarray) -> np.ndarray:
    """[B C] -> probabilities, float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def forward_fn(logits: Callable[[Params, jax.Array], jax.Array], mesh: Mesh) -> Forward:
    """(params, this process's rows) -> the rows of all processes, with `logits` in place of the video."""

    def forward(params, batch):
        rest = {name: rows for name, rows in batch.items() if name != "video"}
        return rest | {"logits": logits(params, batch["video"])}

    compiled = jax.jit(traced_on(mesh, forward), out_shardings=whole(mesh))

    def run(params, batch):
        rows = {name: batch[name] for name in VIEW_KEYS}
        return jax.device_get(compiled(params, shard_batch(mesh, rows | {"record": rows["record"].astype(np.int32)})))

    return run


@dataclasses.dataclass(frozen=True)
class ResultFiles:
    """Where a test leaves its result: folder/result.json and scores.npz, to be merged with others' later.

    facts: what was measured how, for the JSON. classes: their names, () where they are numbers only. source: where the
    weights come from.
    """

    folder: Path
    facts: Mapping[str, Any]
    classes: tuple[str, ...]
    source: str

    def write(
        self, scores: VideoScores, numbers: Mapping[str, float], unreadable: list[dict], weights: Mapping
    ) -> None:
        """The files of one test; `unreadable` are the records that are left out, with reasons."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "scores.npz", "wb") as file:
            np.savez(
                file,
                records=scores.records,
                keys=np.asarray(scores.keys),
                labels=scores.labels,
                probabilities=scores.probabilities.astype(np.float32),
                classes=np.asarray(self.classes, str),
            )
        result = {
            **numbers,
            "complete": not unreadable,
            "unreadable": unreadable,
            "num_videos": len(scores.records),
            "num_videos_in_split": len(scores.records) + len(unreadable),
            **self.facts,
            "merge": MERGE_RULE,
            "checkpoint": {"source": self.source, **weights},
            "scores_file": "scores.npz",
            "confusion_matrix": "confusion.png",
        }
        write_json(self.folder / "result.json", result)
        logging.info("result: %s", self.folder / "result.json")


@dataclasses.dataclass(frozen=True)
class MultiViewTest:
    """Top-1, top-5 and mean per class, in per cent, of a classifier on all views of a split.

    forward: of `forward_fn`. open_views: one pass over the views (data/loader.py, OnePass). num_views: of a video.
    files: where the result is kept, None for nowhere.
    """

    name: str  # also the prefix of the numbers: test/top1
    forward: Forward
    open_views: Callable[[], Loader]
    num_views: int
    every: Duration | None = None
    best_by: str | None = None
    files: ResultFiles | None = None

    def run(self, params: Params, step: int) -> Iterator[tuple[str, float]]:
        scores, unreadable = self.score(params)
        numbers = summarize(scores.probabilities, scores.labels)
        if unreadable:
            logging.warning("INCOMPLETE: %d videos could not be read: %s", len(unreadable), unreadable)
        if self.files is not None:
            weights = {"step": step, "hash": params_hash(params)}  # all processes hash together
            if jax.process_index() == 0:
                self.files.write(scores, numbers, unreadable, weights)
        yield from ((f"{self.name}/{name}", value) for name, value in numbers.items())

    def score(self, params: Params) -> tuple[VideoScores, list[dict]]:
        """Scores of every video of the split, and the records that could not be read, with reasons."""
        loader = self.open_views()
        try:
            scores = score_videos(loader, lambda batch: self.forward(params, batch), self.num_views)
            known = {entry["record"]: entry for entry in loader.bad_records}
        finally:
            loader.close()
        elsewhere = {"key": "", "reason": "unreadable; the log of another process says why"}
        return scores, [{"record": record, **known.get(record, elsewhere)} for record in scores.unreadable]


def params_hash(params: Params) -> str:
    """One hash of all parameters, the same on any mesh: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content_hash(params), sort_keys=True).encode()).hexdigest()[:16]
