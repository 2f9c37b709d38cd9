"""The worked checks of the counting and multi-label scores, and what they refuse."""

import numpy as np
import pytest

from sigma_jax.evals.severe.counting import count_cycles, count_from_halves, remembering, scales
from sigma_jax.evals.severe.counting_scores import count_scores
from sigma_jax.evals.severe.multi_label_scores import average_precision, mean_average_precision
from sigma_jax.models.repetition import Heads
from sigma_jax.ops.repetition_windows import ANCHORS, half_lengths


def test_relative_error_and_its_relatives():
    scores = count_scores(np.array([4, 7, 10, 3]), np.array([4, 6, 8, 5]))
    assert scores["relative_error"] == pytest.approx(0.2042, abs=5e-5)
    assert (scores["oboa"], scores["maen"]) == (0.5, 0.4)
    assert scores["maep"] == pytest.approx(0.2083, abs=5e-5)
    with pytest.raises(ValueError, match="true count of 0"):
        count_scores(np.array([1.0]), np.array([0.0]))
    with pytest.raises(ValueError, match="expected one of each"):
        count_scores(np.array([1.0]), np.array([1.0, 2.0]))


def test_rates_are_averaged_not_periods():
    assert count_from_halves(120, np.array([24, 30, 20]), np.array([24, 20, 30])) == 5.0


def test_map_of_the_worked_check():
    scores = np.array([[0.9, 0.2, 0.3], [0.8, 0.7, 0.1], [0.4, 0.6, 0.2], [0.1, 0.9, 0.9]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    value, precisions = mean_average_precision(scores, labels)
    assert value == pytest.approx(70.83, abs=5e-3) and list(precisions) == [0, 1]
    last, _ = mean_average_precision(scores, labels, "unlabelled_last")
    assert last > value  # the video without a label led class 1
    assert mean_average_precision(scores, np.zeros((4, 3)))[0] == 0.0


@pytest.mark.parametrize("labels", [[1, 0], [0, 1]])
def test_equal_scores_count_together(labels):
    assert average_precision(np.array([0.3, 0.3]), np.array(labels)) == 0.5


def test_map_refuses_what_it_cannot_rank():
    for labels, scores, text in (([[2]], [[0.1]], "expected 0 and 1"), ([[1]], [[np.nan]], "no number")):
        with pytest.raises(ValueError, match=text):
            mean_average_precision(np.array(scores), np.array(labels))
    with pytest.raises(ValueError, match="ranking 'x'"):
        mean_average_precision(np.ones((1, 1)), np.ones((1, 1)), "x")


@pytest.mark.parametrize("length,period", [(120, 24), (300, 20), (90, 30)])
def test_a_network_that_knows_the_period_counts_right(length, period):
    calls = []

    def network(frames):
        """Reads the length of a half back from the spread of its frames, and says which anchor fits best."""
        calls.append(len(frames))
        half = (frames[:, 15] - frames[:, 0] + 1) / 2
        ratio = period / half[:, None] / np.asarray(ANCHORS)
        logits = np.stack([np.zeros_like(ratio), -np.abs(np.log(ratio))], axis=1)
        return Heads(logits, np.log(ratio), logits, np.log(ratio))

    found = count_cycles(network, length)
    assert abs(found.count - length / period) <= 1
    assert sum(calls) <= 75 and len(calls) <= 13 and calls[0] <= 30


def test_no_window_is_computed_twice_and_the_answers_are_the_same():
    asked = []

    def network(frames):
        asked.extend(map(bytes, frames))
        size = frames.clip(-1, 50).astype(float).sum(axis=1)
        one = np.sin(size[:, None] * np.arange(1, 8))
        return Heads(np.stack([one, -one], axis=1), one, np.stack([-one, one], axis=1), one + 1)

    rng = np.random.default_rng(0)
    windows = rng.integers(-5, 60, (6, 16))
    beyond = windows.copy()
    beyond[:, 0] = np.where(windows[:, 0] < 0, -9, windows[:, 0])  # other frames outside the clip: the same window
    look = remembering(network, 50)
    for rows in ([0, 1, 0], [2, 1, 3, 3], [0, 1], [5, 2, 4]):
        for asking in (windows, beyond):
            ours, theirs = look(asking[rows]), network(asking[rows])
            for mine, true in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(mine, true)
    asked.clear()
    look(windows)
    assert not asked


def test_scales_span_3_to_35_per_cent():
    assert scales(100)[[0, -1]] == pytest.approx([3, 35])
    left, right = half_lengths(np.array([[2, 5, 9]]))
    assert (left[0], right[0]) == (4, 4)
