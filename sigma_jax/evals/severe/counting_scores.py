"""Scores of repetition counting: the relative error, and others.

Letters: n videos.
"""

import numpy as np

from sigma_jax.runtime.errors import InvalidValue

NEAR = 1.0  # largest error of a count that is right "off by one"


def count_scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Scores of predicted counts [n], given the true counts [n].

    Returns:
      relative_error: mean of |predicted - true| / true, the score of UCF-RC (SEVERE calls it MAE); lower is better.
      relative_error_std: its standard deviation over videos.
      oboa: share of videos whose count is off by at most one.
      maep, maen: relative error of the videos with too high and of those with too low a count; 0 without such videos.

    Raises:
      InvalidValue: no videos, counts of different shapes, or a true count below 1.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or not predicted.size:
        raise InvalidValue(f"predicted {predicted.shape} and true counts {true.shape}: expected one of each per video")
    if true.min() < 1:
        raise InvalidValue(f"a true count of {true.min():g}: expected at least 1")
    error = np.abs(predicted - true) / true
    over, under = predicted > true, predicted < true
    return {
        "relative_error": float(error.mean()),
        "relative_error_std": float(error.std()),
        "oboa": float((np.abs(predicted - true) <= NEAR).mean()),
        "maep": float(error[over].mean()) if over.any() else 0.0,
        "maen": float(error[under].mean()) if under.any() else 0.0,
    }
