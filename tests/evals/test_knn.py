"""k-NN vote: worked numbers, a loop in NumPy, and the properties any nearest-neighbour classifier has."""

import numpy as np
import pytest

from sigma_jax.evals import knn
from sigma_jax.evals.knn import accuracy, knn_scores


def _at_cosines(cosines):
    """Unit vectors in the plane with the given cosine to the query (1, 0)."""
    cosines = np.asarray(cosines, np.float32)
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)


def _random_set(seed=0, num=60, width=7, num_classes=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, width)).astype(np.float32), rng.integers(0, num_classes, num)


def test_votes_of_three_neighbours():
    bank, labels = _at_cosines([0.90, 0.88, 0.87]), np.array([0, 1, 2])
    scores = knn_scores(bank, labels, [[1.0, 0.0]], k=3, num_classes=3)
    np.testing.assert_allclose(scores, [[1, 0.7515, 0.6514]], atol=5e-5)
    scores = knn_scores(bank, np.array([0, 1, 1]), [[1.0, 0.0]], k=3, num_classes=2)
    np.testing.assert_allclose(scores, [[1, 1.4029]], atol=5e-5)
    assert scores.argmax() == 1


def test_equals_a_loop():
    bank, labels = _random_set()
    queries, _ = _random_set(seed=1, num=23)
    expected = np.zeros((23, 5))
    for i, query in enumerate(queries):
        similarity = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        for j in np.argsort(-similarity)[:20]:
            expected[i, labels[j]] += np.exp((similarity[j] - similarity.max()) / 0.1)
    scores = knn_scores(bank, labels, queries, k=20, temperature=0.1, num_classes=5)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_chunks_do_not_change_scores(monkeypatch):
    bank, labels = _random_set()
    queries, _ = _random_set(seed=1, num=23)
    whole = knn_scores(bank, labels, queries, k=9, num_classes=5)
    monkeypatch.setattr(knn, "MAX_SIMILARITIES", 4 * len(bank))  # chunks of 4 leave a remainder of 3
    knn._search.clear_cache()
    np.testing.assert_allclose(knn_scores(bank, labels, queries, k=9, num_classes=5), whole, rtol=1e-5)
    knn._search.clear_cache()


def test_one_neighbour_is_the_nearest():
    bank, labels = _random_set()
    queries, _ = _random_set(seed=1, num=31)
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    scores = knn_scores(bank, labels, queries, k=1, num_classes=5)
    np.testing.assert_array_equal(scores.argmax(axis=1), labels[(queries @ unit.T).argmax(axis=1)])


def test_feature_scale_does_not_matter():
    bank, labels = _random_set()
    queries, _ = _random_set(seed=1)
    sizes = np.random.default_rng(2).uniform(0.01, 100, (60, 1))
    np.testing.assert_allclose(
        knn_scores(bank * sizes, labels, queries * 7, k=20, num_classes=5),
        knn_scores(bank, labels, queries, k=20, num_classes=5),
        rtol=1e-3,
    )


def test_orthogonal_classes_are_perfect():
    labels = np.arange(40) % 4
    noise = np.random.default_rng(0).normal(size=(80, 4)) * 0.01
    scores = knn_scores(np.eye(4)[labels] + noise[:40], labels, np.eye(4)[labels] + noise[40:], num_classes=4)
    assert accuracy(scores, labels) == 100  # k = 200 of 40: the whole bank votes


def test_large_k_is_the_whole_bank():
    bank, labels = _random_set()
    queries, _ = _random_set(seed=1)
    np.testing.assert_array_equal(
        knn_scores(bank, labels, queries, k=10**6, num_classes=5),
        knn_scores(bank, labels, queries, k=60, num_classes=5),
    )


def test_tiny_temperature_stays_finite():
    bank, labels = _random_set()
    scores = knn_scores(bank, labels, bank, temperature=1e-4, num_classes=5)
    assert np.isfinite(scores).all() and accuracy(scores, labels) == 100


def test_accuracy_counts_and_breaks_ties():
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [0, 0, 0]])
    labels = np.array([0, 1, 0, 1])
    assert [accuracy(scores, labels, top=top) for top in (1, 2, 3)] == [25, 75, 100]
    with pytest.raises(ValueError, match=r"top=4 of 3"):
        accuracy(scores, labels, top=4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bank": np.full((60, 7), np.nan, np.float32)}, "60 of 60 rows of bank are not finite"),
        ({"queries": np.ones((3, 8))}, "same D"),
        ({"bank_labels": np.full(60, 5)}, r"spans 5..5; expected 0..4"),
        ({"bank_labels": np.zeros(59, int)}, "one label per feature row"),
        ({"bank_labels": np.zeros(60)}, "expected integers"),
        ({"k": 0}, "must be positive"),
        ({"temperature": 0.0}, "must be positive"),
    ],
)
def test_bad_input_is_named(change, message):
    bank, labels = _random_set()
    call = {"bank": bank, "bank_labels": labels, "queries": bank[:3], "k": 5, "num_classes": 5} | change
    arrays = [call.pop(name) for name in ("bank", "bank_labels", "queries")]
    with pytest.raises(ValueError, match=message):
        knn_scores(*arrays, **call)
