"""J and F of the DAVIS 2017 challenge: region similarity and boundary accuracy of predicted objects.

After Perazzi et al. 2016 and Pont-Tuset et al. 2017; the numbers are those of the official evaluation.

Letters: F frames, y x pixels, O objects.
"""

import dataclasses
from collections.abc import Mapping

import cv2
import numpy as np

BOUNDARY_SHARE = 0.008  # tolerance between outlines, as a share of the image's diagonal
RECALL_THRESHOLD = 0.5
_VOID = 255


@dataclasses.dataclass(frozen=True)
class ObjectScores:
    """Per-frame J and F of one object, each float [F]."""

    region: np.ndarray
    boundary: np.ndarray


def region_similarity(truth: np.ndarray, prediction: np.ndarray) -> float:
    """J: intersection over union of two masks bool [y x]; 1 if both are empty."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def boundary_accuracy(truth: np.ndarray, prediction: np.ndarray) -> float:
    """F: harmonic mean of precision and recall of the predicted outline; 1 if neither mask has an outline."""
    radius = int(np.ceil(BOUNDARY_SHARE * np.linalg.norm(truth.shape)))
    offsets = np.arange(-radius, radius + 1)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    true_outline, outline = outline_of(truth), outline_of(prediction)
    num_true, num_predicted = np.count_nonzero(true_outline), np.count_nonzero(outline)
    if not num_true or not num_predicted:
        return float(num_true == num_predicted)
    near_truth = cv2.dilate(true_outline.astype(np.uint8), disc).astype(bool)
    near_prediction = cv2.dilate(outline.astype(np.uint8), disc).astype(bool)
    precision = np.count_nonzero(outline & near_truth) / num_predicted
    recall = np.count_nonzero(true_outline & near_prediction) / num_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline_of(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask bool [y x] that differ from a neighbour to the right, below or below right; bool [y x]."""
    outline = np.zeros_like(mask)
    outline[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    outline[:-1, :] |= mask[:-1, :] != mask[1:, :]
    outline[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return outline


def score_sequence(truth: np.ndarray, prediction: np.ndarray) -> dict[int, ObjectScores]:
    """Scores of every object of a sequence; the first and the last frame do not count.

    Args:
      truth: uint8 [F y x], object numbers; 255 is background. The objects are the numbers from 1 to the largest one in
        frame 0 that any frame shows; one that no frame shows would agree with an empty prediction in all of them.
      prediction: of the same shape.

    Raises:
      ValueError: other shapes, fewer than three frames, no object in frame 0, or an unknown object in the prediction.
    """
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(f"truth is {truth.shape}, prediction {prediction.shape}; expected one shape [F y x]")
    if len(truth) < 3:
        raise ValueError(f"{len(truth)} frames: the first and the last do not count, so at least 3 are needed")
    truth = np.where(truth == _VOID, 0, truth)
    prediction = np.where(prediction == _VOID, 0, prediction)
    num_objects = int(truth[0].max(initial=0))
    if not num_objects:
        raise ValueError("frame 0 shows no object: there is nothing to follow")
    if prediction[1:-1].max() > num_objects:
        raise ValueError(f"the prediction has object {prediction[1:-1].max()}, frame 0 shows {num_objects}")
    scores = {}
    for number in sorted(set(np.unique(truth).tolist()) & set(range(1, num_objects + 1))):
        pairs = [(truth[i] == number, prediction[i] == number) for i in range(1, len(truth) - 1)]
        scores[number] = ObjectScores(
            np.array([region_similarity(*pair) for pair in pairs]),
            np.array([boundary_accuracy(*pair) for pair in pairs]),
        )
    return scores


def statistics(values: np.ndarray) -> dict[str, float]:
    """Mean, Recall (share above .5) and Decay (mean of the first quarter minus mean of the last) over frames."""
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    quarters = [values[edges[i] : edges[i + 1] + 1] for i in range(4)]
    return {
        "Mean": float(np.mean(values)),
        "Recall": float(np.mean(values > RECALL_THRESHOLD)),
        "Decay": float(np.mean(quarters[0]) - np.mean(quarters[3])),
    }


def summary(sequences: Mapping[str, Mapping[int, ObjectScores]]) -> dict[str, dict]:
    """Numbers per object and over all objects, in [0, 1], under the official names.

    Returns:
      'per_object': {'<sequence>_<number>': {'J-Mean', 'J-Recall', 'J-Decay', 'F-Mean', ...}}, and 'global': the means
      over all objects, with 'J&F-Mean'.

    Raises:
      ValueError: no object.
    """
    per_object = {}
    for name, objects in sequences.items():
        for number, scores in objects.items():
            per_object[f"{name}_{number}"] = {
                f"{letter}-{key}": value
                for letter, values in (("J", scores.region), ("F", scores.boundary))
                for key, value in statistics(values).items()
            }
    if not per_object:
        raise ValueError("no sequence has an object: nothing to summarise")
    rows = list(per_object.values())
    whole = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return {"per_object": per_object, "global": {"J&F-Mean": (whole["J-Mean"] + whole["F-Mean"]) / 2} | whole}
