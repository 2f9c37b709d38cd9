"""Mean average precision of clips with several labels.

Letters: n videos, C classes.
"""

import numpy as np

from sigma_jax.runtime.errors import InvalidValue

RANKINGS = ("all_videos", "unlabelled_last")


def average_precision(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Average precision by scikit-learn's definition, without interpolation.

    It is the sum over distinct scores, from the highest, of (recall - previous recall) * precision; the order of equal
    scores has no influence.

    Args:
      scores: [n].
      is_positive: bool [n], with at least one positive.
    """
    order = np.argsort(-scores, kind="stable")
    scores, is_positive = scores[order], is_positive[order].astype(bool)
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # of each run of equal scores
    hits = np.cumsum(is_positive)[last]
    recall, precision = hits / is_positive.sum(), hits / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(
    scores: np.ndarray, labels: np.ndarray, ranking: str = "all_videos"
) -> tuple[float, dict[int, float]]:
    """Mean average precision over the classes that have a positive video, in per cent.

    Args:
      scores: [n C].
      labels: [n C], 0 or 1.
      ranking: all_videos, or unlabelled_last: videos without any label rank behind all others, as in Charades' own
        script.

    Returns:
      (mAP, or 0 if no class has a positive; average precision of each class that has one, in per cent).

    Raises:
      InvalidValue: shapes that differ, labels other than 0 and 1, scores that are no numbers, or an unknown ranking.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 2:
        raise InvalidValue(f"scores {scores.shape} and labels {labels.shape}: expected the same [videos, classes]")
    if not np.isin(labels, (0, 1)).all():
        raise InvalidValue(f"labels span {labels.min()}..{labels.max()}: expected 0 and 1")
    if np.isnan(scores).any():
        raise InvalidValue(
            f"{np.isnan(scores).any(axis=1).sum()} of {len(scores)} videos have scores that are no number"
        )
    if ranking not in RANKINGS:
        raise InvalidValue(f"ranking {ranking!r} is unknown: choose one of {', '.join(RANKINGS)}")
    if ranking == "unlabelled_last":
        scores = np.where(labels.any(axis=1, keepdims=True), scores, -np.inf)
    kept = np.flatnonzero(labels.any(axis=0))
    precisions = {int(c): 100.0 * average_precision(scores[:, c], labels[:, c]) for c in kept}
    return float(np.mean(list(precisions.values()))) if precisions else 0.0, precisions
