"""Weighted k-nearest-neighbour classification of frozen features.

The vote of Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018): each of
the k bank clips most similar to a query votes for its class with weight exp(cosine similarity / temperature).

The SIGMA paper reports no k-NN number, so the feature bank (train split, one central view per clip) is our choice.

Letters: n bank clips, m queries, D feature width, C classes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.evals.features import check_finite, check_labels
from sigma_jax.runtime.errors import InvalidValue

TEMPERATURE = 0.07  # of Wu et al.
MAX_SIMILARITIES = 2**24  # similarities held at once: 64 MiB of float32


class Neighbours(NamedTuple):
    """Neighbours of every query, nearest first: rows of the bank int [m k], cosine similarities float32 [m k]."""

    rows: np.ndarray
    similarities: np.ndarray
    bank_size: int


def knn_scores(
    bank,
    bank_labels,
    queries,
    *,
    k: int = 200,
    temperature: float = TEMPERATURE,
    num_classes: int,
) -> np.ndarray:
    """Class scores of every query from the votes of its k nearest bank clips.

    Args:
        bank: [n D] features with known labels; their scale does not matter.
        bank_labels: int [n] in [0, num_classes).
        queries: [m D].
        k: neighbours that vote; of a smaller bank all clips vote.
        temperature: positive; the smaller it is, the more the nearest clips decide.
        num_classes: C.

    Returns:
        float32 [m C]. Scores are relative to the nearest neighbour, whose vote weighs 1, so any temperature is stable.

    Raises:
        ValueError: shapes that disagree, labels out of range, features that are not finite, k or temperature <= 0.
    """
    found = neighbours(bank, queries, k=k)
    return votes(found, bank_labels, temperature=temperature, num_classes=num_classes)


def neighbours(bank, queries, *, k: int) -> Neighbours:
    """The neighbour search of knn_scores, which several labellings of the same clips can share."""
    bank, queries = np.asarray(bank, np.float32), np.asarray(queries, np.float32)
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise InvalidValue(f"bank {bank.shape} and queries {queries.shape}; expected [n D] and [m D] with the same D")
    if k < 1:
        raise InvalidValue(f"k={k}; it must be positive")
    check_finite("bank", bank)
    check_finite("queries", queries)
    return Neighbours(*map(np.asarray, _search(bank, queries, min(k, len(bank)))), len(bank))


@partial(jax.jit, static_argnames="k")
def _search(bank, queries, k):
    bank = _to_unit_rows(bank)

    def one_query(query):
        similarities = jnp.matmul(bank, query, precision=jax.lax.Precision.HIGHEST)  # [n]
        similarity, row = jax.lax.top_k(similarities, k)
        return row, similarity

    return jax.lax.map(one_query, _to_unit_rows(queries), batch_size=max(1, MAX_SIMILARITIES // len(bank)))


def votes(found: Neighbours, bank_labels, *, temperature: float = TEMPERATURE, num_classes: int) -> np.ndarray:
    """The vote of knn_scores: class scores [m C] from the neighbours' labels."""
    if temperature <= 0:
        raise InvalidValue(f"temperature={temperature}; it must be positive")
    bank_labels = np.asarray(bank_labels)
    check_labels("bank_labels", bank_labels, found.bank_size, num_classes)
    weights = np.exp((found.similarities - found.similarities[:, :1]) / np.float32(temperature))
    scores = np.zeros((len(weights), num_classes), np.float32)
    np.add.at(scores, (np.arange(len(weights))[:, None], bank_labels[found.rows]), weights)
    return scores


def _to_unit_rows(features):
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def accuracy(scores, labels, *, top: int = 1) -> float:
    """Accuracy in per cent: rows of `scores` [m C] whose label [m] is among the `top` highest; ties favour low classes.

    Raises:
        ValueError: labels that do not fit the scores, or `top` outside [1, C].
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    num_classes = scores.shape[1]
    check_labels("labels", labels, len(scores), num_classes)
    if not 1 <= top <= num_classes:
        raise InvalidValue(f"top={top} of {num_classes} classes; expected 1..{num_classes}")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    is_ahead = (scores > own) | ((scores == own) & (np.arange(num_classes) < labels[:, None]))
    return 100.0 * float((is_ahead.sum(axis=1) < top).mean())
