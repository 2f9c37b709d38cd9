"""Multi-view testing: the scores of a video are merged over its views (temporal views x crops).

The result is exact under padding and on any number of devices: every (video, view) counts once. A video of which a view
cannot be read is left out and named, and the result is marked as incomplete; nothing replaces the video.

Letters: B views in a batch, C classes, n videos.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sigma_jax.data.loader import Loader
from sigma_jax.data.metadata import write_json
from sigma_jax.evals.classification_scores import summarize
from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.sharding import replicated, shard_batch, traced_on
from sigma_jax.runtime.trees import Params
from sigma_jax.weights.weights_file import content_digest, flatten

VIEW_KEYS = ("video", "label", "record", "weight", "key")  # the parts of a batch that a test uses
Batch = Mapping[str, np.ndarray]
Forward = Callable[[Params, Batch], Batch]


class VideoScores(NamedTuple):
    """One row per video that was read completely, in order of the records."""

    records: np.ndarray  # int [n], number in the split
    keys: tuple[str, ...]
    labels: np.ndarray  # int [n], or 0 and 1 [n C]
    probabilities: np.ndarray  # float64 [n C]
    unreadable: tuple[int, ...]  # records that are left out


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax probabilities of logits [B C], float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Sigmoid probabilities of logits [B C], float64."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


class Merge(NamedTuple):
    """How the views of a video are merged.

    Attributes:
      rule: the rule in words, for result.json.
      per_view: converts logits [B C] of views to scores [B C].
      add: combines the scores of two views.
      divides: whether the combined scores are divided by the number of views.
    """

    rule: str
    per_view: Callable[[np.ndarray], np.ndarray]
    add: Callable[[np.ndarray, np.ndarray], np.ndarray]
    divides: bool


MEAN_OF_SOFTMAX = Merge("softmax per view, arithmetic mean over views", softmax, np.add, True)
MAXIMUM_OF_SIGMOID = Merge("sigmoid per view and class, maximum over views", sigmoid, np.maximum, False)


def score_videos(
    batches: Iterable[Batch],
    logits_fn: Callable[[Batch], Mapping[str, np.ndarray]],
    num_views: int,
    merge: Merge = MEAN_OF_SOFTMAX,
) -> VideoScores:
    """Runs a classifier over all views.

    Args:
      batches: this process's part of video, label, record, view, weight, key (data/loader.py, OnePass).
      logits_fn: returns the batch's rows of all processes, with `logits` [B C] in place of `video`.
      num_views: views per video.
      merge: how views are merged.

    Raises:
      InvalidValue: no video could be read, or a label is outside the classes.
    """
    total, count, label, key = {}, {}, {}, {}
    for batch in batches:
        rows = {name: np.asarray(values) for name, values in logits_fn(batch).items()}
        scores = merge.per_view(rows["logits"])
        for i, record in enumerate(rows["record"].tolist()):
            if record < 0:
                continue  # padding
            count.setdefault(record, 0)
            if rows["weight"][i] > 0:
                total[record] = merge.add(total[record], scores[i]) if record in total else scores[i]
                label[record], key[record] = rows["label"][i], rows["key"][i]
                count[record] += 1
    complete = sorted(record for record, views in count.items() if views == num_views)
    if not complete:
        raise InvalidValue(f"nothing to measure: of {len(count)} videos in the split none could be read completely")
    labels = np.asarray([label[record] for record in complete])
    probabilities = np.stack([total[record] for record in complete]) / (num_views if merge.divides else 1)
    num_classes = probabilities.shape[1]
    if labels.ndim == 1 and (labels.min() < 0 or labels.max() >= num_classes):
        raise InvalidValue(
            f"labels span {labels.min()}..{labels.max()}, the head has {num_classes} classes: is this the data set "
            "(and the label map) it was trained on?"
        )
    names = tuple(bytes(key[record]).rstrip(b"\0").decode("utf-8", "backslashreplace") for record in complete)
    return VideoScores(np.asarray(complete), names, labels, probabilities, tuple(sorted(count.keys() - set(complete))))


def forward_fn(logits: Callable[[Params, jax.Array], jax.Array], mesh: Mesh) -> Forward:
    """Makes the function of (params, this process's rows) that returns the rows of all processes with `logits`."""

    def forward(params, batch):
        rest = {name: rows for name, rows in batch.items() if name != "video"}
        return rest | {"logits": logits(params, batch["video"])}

    compiled = jax.jit(traced_on(mesh, forward), out_shardings=replicated(mesh))

    def run(params, batch):
        rows = {name: batch[name] for name in VIEW_KEYS}
        return jax.device_get(compiled(params, shard_batch(mesh, rows | {"record": rows["record"].astype(np.int32)})))

    return run


@dataclasses.dataclass(frozen=True)
class ResultFiles:
    """The files of a test's result, folder/result.json and others.

    Attributes:
      folder: of the files.
      facts: what was measured and how, for result.json.
      classes: class names, () if classes are numbers only.
      source: where the weights come from.
      problems: sentences on why the data are incomplete.
      origin: facts about the weights, for result.json.
    """

    folder: Path
    facts: Mapping[str, Any]
    classes: tuple[str, ...]
    source: str
    problems: tuple[str, ...] = ()
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def write(self, numbers: Mapping[str, Any], unreadable: list[dict], weights: Mapping, problems: Sequence[str] = ()):
        """Writes result.json; the result is complete if no record is left out and there are no problems.

        Args:
          numbers: of the test.
          unreadable: records that are left out, with reasons.
          weights: step and hash of the weights.
          problems: further sentences on why the result is incomplete.
        """
        problems = [*self.problems, *problems]
        if unreadable:
            problems.append(f"{len(unreadable)} videos could not be read, the first: {unreadable[0]}")
        result = {
            **numbers,
            "complete": not problems,
            "incomplete": problems,
            "unreadable": unreadable,
            **self.facts,
            "checkpoint": {"source": self.source, **weights, **self.origin},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "result.json", result)
        logging.info("result: %s", self.folder / "result.json")

    def write_scores(self, scores: VideoScores) -> None:
        """Writes scores.npz, from which the scores of several models can be averaged."""
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


class Summary(NamedTuple):
    """Numbers of a test, and sentences on why they are incomplete."""

    numbers: Mapping[str, float]
    problems: Sequence[str] = ()


def top_scores(scores: VideoScores) -> Summary:
    """Top-1, top-5 and mean per class, in per cent."""
    return Summary(summarize(scores.probabilities, scores.labels))


@dataclasses.dataclass(frozen=True)
class MultiViewTest:
    """Evaluator of a classifier on all views of a split.

    Attributes:
      name: prefix of the numbers, as in test/top1.
      forward: made by `forward_fn`.
      open_views: opens one pass over the views (data/loader.py, OnePass).
      num_views: views of a video.
      every, best_by: see evals/protocol.py.
      merge: how the views of a video are merged.
      summarize: computes the numbers from the scores.
      files: files of the result; None: none are written.
    """

    name: str
    forward: Forward
    open_views: Callable[[], Loader]
    num_views: int
    every: Duration | None = None
    best_by: str | None = None
    merge: Merge = MEAN_OF_SOFTMAX
    summarize: Callable[[VideoScores], Summary] = top_scores
    files: ResultFiles | None = None

    def run(self, params: Params, step: int) -> Iterator[tuple[str, float]]:
        scores, unreadable = self.score(params)
        numbers, problems = self.summarize(scores)
        if unreadable:
            logging.warning("INCOMPLETE: %d videos could not be read: %s", len(unreadable), unreadable)
        if self.files is not None:
            weights = {"step": step, "hash": params_hash(params)}  # a collective: all processes must call it
            if jax.process_index() == 0:
                self.files.write_scores(scores)
                counts = {"num_videos": len(scores.records), "merge": self.merge.rule, "scores_file": "scores.npz"}
                counts["num_videos_in_split"] = len(scores.records) + len(unreadable)
                self.files.write({**numbers, **counts}, unreadable, weights, problems)
        yield from ((f"{self.name}/{name}", value) for name, value in numbers.items())

    def score(self, params: Params) -> tuple[VideoScores, list[dict]]:
        """Scores of every video of the split, and the records that could not be read, with reasons."""
        loader = self.open_views()
        try:
            scores = score_videos(loader, lambda batch: self.forward(params, batch), self.num_views, self.merge)
            return scores, named(scores.unreadable, loader)
        finally:
            loader.close()


def named(records: Iterable[int], loader: Loader) -> list[dict]:
    """Records that could not be read, with key and reason."""
    known = {entry["record"]: entry for entry in loader.bad_records}
    elsewhere = {"key": "", "reason": "unreadable; the log of another process says why"}
    return [{"record": record, **known.get(record, elsewhere)} for record in records]


def params_hash(params: Params) -> str:
    """The digest of these weights as in the log and in `tools.convert`: the same on any mesh, in any format."""

    def whole_array(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return content_digest({name: whole_array(leaf) for name, leaf in flatten(params).items()})
