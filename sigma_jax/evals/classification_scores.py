"""Numbers of a classifier from per-video probabilities.

Letters: n videos, C classes.
"""

import numpy as np

from sigma_jax.evals.knn import accuracy


def summarize(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """top1, top5 (with at least five classes) and mean_per_class, in per cent, of probabilities [n C], labels [n]."""
    numbers = {"top1": accuracy(probabilities, labels)}
    if probabilities.shape[1] >= 5:
        numbers["top5"] = accuracy(probabilities, labels, top=5)
    predicted = probabilities.argmax(axis=1)
    return numbers | {"mean_per_class": mean_per_class(predicted == labels, labels)}


def mean_per_class(is_correct: np.ndarray, labels: np.ndarray, num_classes: int = 0) -> float:
    """Accuracy of each class, averaged over the classes that occur, in per cent.

    (The authors' helper averages over classes 0..c for each c instead.)

    Args:
      is_correct: bool [n].
      labels: int [n].
      num_classes: if given, the mean is over so many classes, and a class without videos counts as 0 (as in SEVERE).
    """
    total = float(np.sum([is_correct[labels == c].mean() for c in np.unique(labels)]))
    return 100.0 * total / (num_classes or len(np.unique(labels)))


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """int [C C]: row = true class, column = predicted class."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix
