"""Multi-view testing: softmax per view, mean over the views of a video (temporal views x crops), then the class.

Exact under padding and any number of devices: every (video, view) counts once, in the order of its number. A video of
which a view could not be read is left out, named, and makes the result incomplete; nothing replaces it.

Letters: B views in a batch, C classes, n videos.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from sigma_jax.runtime.errors import InvalidValue

MERGE_RULE = "softmax per view, arithmetic mean over views"
Batch = Mapping[str, np.ndarray]


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
