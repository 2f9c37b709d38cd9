"""Evaluators of frozen features by k-NN, logistic regression and attentive pooling, for several labellings at once.

Letters: B clips, F frames, N tokens, D width, n clips of a whole data set.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import jax
import numpy as np

from sigma_jax.evals.attentive import attentive_probe
from sigma_jax.evals.features import Batch, extract
from sigma_jax.evals.knn import accuracy, neighbours, votes
from sigma_jax.evals.labellings import Labelling
from sigma_jax.evals.linear import linear_probe
from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.trees import Params

Features = Callable[[Params, np.ndarray], jax.Array]
Batches = Callable[[], Iterable[Batch]]


@dataclasses.dataclass(frozen=True)
class FrozenFeatures:
    """Evaluator of frozen features: top-1, in per cent, of k-NN and of logistic regression.

    It yields `knn/<name>` and, if `linear`, `linear/<name>` for each labelling; features are extracted once.

    Attributes:
      features: function of parameters and video uint8 [B F y x 3] that returns [B D].
      train_batches, test_batches: return the batches of the feature bank (also training clips of the regression) and of
        the queries, as `extract` takes them.
      labellings: by name.
      k: neighbours that vote.
      linear: whether logistic regression is measured.
      name, every, best_by: see evals/protocol.py.
    """

    features: Features
    train_batches: Batches
    test_batches: Batches
    labellings: Mapping[str, Labelling]
    k: int = 20
    linear: bool = True
    name: str = "k-NN"
    every: Duration | None = None
    best_by: str | None = None

    def run(self, params: Params, step: int = 0) -> Iterator[tuple[str, float]]:
        features = partial(self.features, params)
        train_features, train_stored = extract(features, self.train_batches())
        test_features, test_stored = extract(features, self.test_batches())
        splits = (train_features, train_stored), (test_features, test_stored)
        yield from frozen_scores(*splits, self.labellings, k=self.k, linear=self.linear)


def frozen_scores(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    labellings: Mapping[str, Labelling],
    *,
    k: int,
    linear: bool = True,
) -> Iterator[tuple[str, float]]:
    """The numbers of FrozenFeatures from (features [n D], stored labels [n]) of both splits."""
    (train_features, train_stored), (test_features, test_stored) = train, test
    found = neighbours(train_features, test_features, k=k)
    most_classes = max(num_classes for _, num_classes in labellings.values())
    for name, (labels, num_classes) in labellings.items():
        train_labels, test_labels = labels(train_stored), labels(test_stored)
        scores = votes(found, train_labels, num_classes=num_classes)
        yield f"knn/{name}", accuracy(scores, test_labels)
        if linear:
            splits = (train_features, train_labels), (test_features, test_labels)
            probe = linear_probe(*splits, num_classes=num_classes, padded_classes=most_classes)
            yield f"linear/{name}", probe["top1"]


@dataclasses.dataclass(frozen=True)
class FrozenTokens:
    """Evaluator of frozen tokens: top-1, in per cent, of an attentive probe; yields `attentive/<name>`.

    Attributes:
      tokens: function of parameters and video uint8 [B F y x 3] that returns [B N D].
      num_heads: of the pooling.
      train_batches, test_batches, labellings, name, every, best_by: see FrozenFeatures.
    """

    tokens: Features
    train_batches: Batches
    test_batches: Batches
    labellings: Mapping[str, Labelling]
    num_heads: int
    name: str = "attentive"
    every: Duration | None = None
    best_by: str | None = None

    def run(self, params: Params, step: int = 0) -> Iterator[tuple[str, float]]:
        train, train_stored = extract(partial(self.tokens, params), self.train_batches())
        test, test_stored = extract(partial(self.tokens, params), self.test_batches())
        for name, (labels, num_classes) in self.labellings.items():
            splits = (train, labels(train_stored)), (test, labels(test_stored))
            probe = attentive_probe(*splits, num_classes=num_classes, num_heads=self.num_heads)
            yield f"attentive/{name}", probe["top1"]
