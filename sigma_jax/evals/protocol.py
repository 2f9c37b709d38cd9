"""What an evaluator is, and those that measure frozen features.

An evaluator turns a network into named numbers; the training loop and the commands write them down.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from sigma_jax.evals.attentive import attentive_probe
from sigma_jax.evals.features import Batch, FeatureFn, extract
from sigma_jax.evals.knn import accuracy, neighbours, votes
from sigma_jax.evals.linear import linear_probe


class Evaluator(Protocol):
    """Measures a network; exact under padding."""

    def run(self, feature_fn: FeatureFn) -> Iterator[tuple[str, float]]:
        """Yields (name, number) pairs, e.g. ("knn/motion", 86.5), for video uint8 [B F y x 3] -> features [B D]."""
        ...


class Labelling(NamedTuple):
    """One question asked of the same clips."""

    labels: Callable[[np.ndarray], np.ndarray]  # stored labels [n ...] -> classes int [n]
    num_classes: int


class FrozenFeatures:
    """k-NN and linear top-1, in per cent, of frozen features for several labellings of one data set.

    Yields `knn/<name>` and, unless `linear` is False, `linear/<name>` for each labelling; features are extracted once.
    """

    def __init__(
        self,
        train_batches: Callable[[], Iterable[Batch]],
        test_batches: Callable[[], Iterable[Batch]],
        labellings: Mapping[str, tuple[Callable[[np.ndarray], np.ndarray], int]],
        *,
        k: int = 20,
        linear: bool = True,
    ):
        """Args: factories of the batches that `extract` takes, and name -> (labels function, number of classes)."""
        self.train_batches, self.test_batches, self.k, self.linear = train_batches, test_batches, k, linear
        self.labellings = {name: Labelling(*labelling) for name, labelling in labellings.items()}
        self.most_classes = max(labelling.num_classes for labelling in self.labellings.values())

    def run(self, feature_fn: FeatureFn) -> Iterator[tuple[str, float]]:
        train_features, train_stored = extract(feature_fn, self.train_batches())
        test_features, test_stored = extract(feature_fn, self.test_batches())
        found = neighbours(train_features, test_features, k=self.k)
        for name, (labels, num_classes) in self.labellings.items():
            train_labels, test_labels = labels(train_stored), labels(test_stored)
            scores = votes(found, train_labels, num_classes=num_classes)
            yield f"knn/{name}", accuracy(scores, test_labels)
            if not self.linear:
                continue
            splits = (train_features, train_labels), (test_features, test_labels)
            probe = linear_probe(*splits, num_classes=num_classes, filled_classes=self.most_classes)
            yield f"linear/{name}", probe["top1"]


class FrozenTokens:
    """Attentive top-1, in per cent, of frozen tokens: yields `attentive/<name>` for each labelling.

    As FrozenFeatures, but its feature function returns tokens [B N D]; `num_heads` is that of the pooling.
    """

    def __init__(
        self,
        train_batches: Callable[[], Iterable[Batch]],
        test_batches: Callable[[], Iterable[Batch]],
        labellings: Mapping[str, Labelling],
        *,
        num_heads: int,
    ):
        self.train_batches, self.test_batches, self.num_heads = train_batches, test_batches, num_heads
        self.labellings = labellings

    def run(self, feature_fn: FeatureFn) -> Iterator[tuple[str, float]]:
        train, train_stored = extract(feature_fn, self.train_batches())
        test, test_stored = extract(feature_fn, self.test_batches())
        for name, (labels, num_classes) in self.labellings.items():
            splits = (train, labels(train_stored)), (test, labels(test_stored))
            probe = attentive_probe(*splits, num_classes=num_classes, num_heads=self.num_heads)
            yield f"attentive/{name}", probe["top1"]
