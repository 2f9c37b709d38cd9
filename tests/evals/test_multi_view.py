"""Merging of views and the numbers of a classifier: worked checks, padding, unreadable videos."""

import numpy as np
import pytest

from sigma_jax.evals.classification_scores import confusion_matrix, mean_per_class, summarize
from sigma_jax.evals.multi_view import score_videos

LOGITS = np.asarray([[[6, 0, 0], [0, 2, 0], [0, 2, 0]], [[0, 0, 1], [0, 0, 2], [0, 0, 3]]], np.float32)


def _batches(size, weight=None):
    """Rows of two videos x three views in batches of `size`, the last filled up."""
    rows = [(record, view) for record in range(2) for view in range(3)]
    rows += [(-1, 0)] * (-len(rows) % size)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        key = np.zeros((size, 8), np.uint8)
        key[:, 0] = [ord("a") + max(record, 0) for record, _ in part]
        weights = [0 if record < 0 else (1 if weight is None else weight[record][view]) for record, view in part]
        yield {
            "record": np.asarray([record for record, _ in part]),
            "label": np.asarray([1 if record == 0 else 2 for record, _ in part]),
            "weight": np.asarray(weights, np.float32),
            "logits": np.stack([LOGITS[record][view] for record, view in part]),
            "key": key,
        }


def test_views_are_averaged_after_the_softmax():
    scores = score_videos(_batches(2), lambda batch: batch, 3)
    np.testing.assert_allclose(scores.probabilities[0], [0.4027, 0.5255, 0.0718], atol=5e-5)
    assert scores.probabilities[0].argmax() == 1  # averaged logits would say 0
    assert scores.keys == ("a", "b") and scores.labels.tolist() == [1, 2] and scores.unreadable == ()


@pytest.mark.parametrize("size", [1, 4, 5, 16])
def test_any_batch_size_gives_the_same_bits(size):
    expected = score_videos(_batches(2), lambda batch: batch, 3).probabilities
    np.testing.assert_array_equal(score_videos(_batches(size), lambda batch: batch, 3).probabilities, expected)


def test_a_video_with_an_unreadable_view_is_left_out_and_named():
    scores = score_videos(_batches(4, weight=[[1, 0, 1], [1, 1, 1]]), lambda batch: batch, 3)
    assert scores.records.tolist() == [1] and scores.unreadable == (0,)


def test_nothing_readable():
    with pytest.raises(ValueError, match="none could be read"):
        score_videos(_batches(4, weight=np.zeros((2, 3))), lambda batch: batch, 3)


def test_labels_beyond_the_head():
    def narrow(batch):
        return batch | {"logits": batch["logits"][:, :2]}

    with pytest.raises(ValueError, match="the head has 2 classes"):
        score_videos(_batches(3), narrow, 3)


def test_mean_per_class():
    labels, is_correct = np.asarray([0, 0, 1, 1, 2]), np.asarray([1, 1, 0, 0, 1], bool)
    assert 100 * is_correct.mean() == 60.0
    assert mean_per_class(is_correct, labels) == pytest.approx(66.67, abs=0.01)


def test_summary_and_confusion():
    probabilities = np.eye(6)[[0, 1, 2, 2]] * 0.5 + 0.01
    labels = np.asarray([0, 1, 2, 5])
    numbers = summarize(probabilities, labels)
    assert numbers["top1"] == 75.0 and numbers["mean_per_class"] == 75.0 and numbers["top5"] == 75.0
    matrix = confusion_matrix(probabilities.argmax(axis=1), labels, 6)
    assert matrix[5, 2] == 1 and matrix[2, 2] == 1 and matrix.sum() == 4
    assert "top5" not in summarize(probabilities[:3, :3], labels[:3])
