"""J and F: rules of the official evaluation on small masks, and its numbers where the shared sequences are there."""

import json
from pathlib import Path

import numpy as np
import pytest

from sigma_jax.evals.segmentation import region_boundary
from sigma_jax.evals.segmentation.frames import read_mask
from sigma_jax.evals.segmentation.layouts import open_sequences

VOS = Path(__file__).resolve().parents[4] / "shared/data/vos"


def square(top, left, side=20, size=(60, 80)):
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_a_perfect_prediction():
    truth = np.stack([square(10, 10 + i) for i in range(6)])
    scores = region_boundary.summary({"a": region_boundary.score_sequence(truth, truth)})
    assert scores["global"]["J&F-Mean"] == 1 and scores["per_object"]["a_1"]["F-Recall"] == 1


def test_the_first_and_last_frame_do_not_count_and_void_is_background():
    truth = np.stack([square(10, 10)] * 5)
    prediction = truth.copy()
    prediction[[0, -1]] = 0
    truth[2, :3] = 255
    scores = region_boundary.score_sequence(truth, prediction)
    assert scores[1].region.tolist() == [1, 1, 1]


def test_numbers_that_no_mask_shows_are_no_objects():
    """Grey levels of a palette, or 1 and 3: empty masks that agree would count as perfect."""
    truth = np.stack([square(10, 10) * 38 + square(35, 50) * 75] * 4)
    assert sorted(region_boundary.score_sequence(truth, np.zeros_like(truth))) == [38, 75]


def test_region_and_boundary_of_a_shifted_square():
    truth, shifted = square(10, 10).astype(bool), square(10, 15).astype(bool)
    assert region_boundary.region_similarity(truth, shifted) == pytest.approx(15 / 25)
    assert 0.4 < region_boundary.boundary_accuracy(truth, shifted) < 0.9
    near = square(10, 11).astype(bool)  # the tolerance of 60 x 80 pixels is one
    assert region_boundary.boundary_accuracy(truth, near) == 1


def test_empty_masks():
    full, empty = square(10, 10).astype(bool), np.zeros((60, 80), bool)
    assert region_boundary.region_similarity(empty, empty) == region_boundary.boundary_accuracy(empty, empty) == 1
    assert region_boundary.boundary_accuracy(full, empty) == region_boundary.boundary_accuracy(empty, full) == 0


def test_decay_compares_the_first_quarter_with_the_last():
    values = np.linspace(1, 0, 9)
    assert region_boundary.statistics(values) == pytest.approx({"Mean": 0.5, "Recall": 4 / 9, "Decay": 0.75})


def test_what_cannot_be_scored():
    truth = np.stack([square(10, 10)] * 4)
    with pytest.raises(ValueError, match="at least 3"):
        region_boundary.score_sequence(truth[:2], truth[:2])
    with pytest.raises(ValueError, match="frame 0 shows no object"):
        region_boundary.score_sequence(truth * 0, truth)
    with pytest.raises(ValueError, match="prediction has object 2"):
        region_boundary.score_sequence(truth, truth * 2)


@pytest.mark.skipif(not VOS.is_dir(), reason="the shared sequences are not there")
@pytest.mark.parametrize("which", ["osvos", "copied"])
def test_official_numbers_of_real_sequences(which):
    expected = json.loads((VOS / "expected_jf.json").read_text())
    if which == "copied":
        expected = expected["copy_previous_frame_multiobject"]
    scores = {}
    for sequence in open_sequences(VOS / "davis", "davis", "train" if which == "copied" else "val").sequences:
        if which == "copied" and sequence.name != "schoolgirls":
            continue
        truth = np.stack([read_mask(path) for path in sequence.masks])
        if which == "copied":
            prediction = np.concatenate([truth[:1], truth[:-1]])
        else:
            folder = VOS / "predictions/osvos" / sequence.name
            prediction = np.stack([read_mask(folder / path.name) for path in sequence.masks])
        scores[sequence.name] = region_boundary.score_sequence(truth, prediction)
    found = region_boundary.summary(scores)
    assert found["global"] == pytest.approx(expected["global"], abs=1e-3)
    for name, numbers in expected["per_object"].items():
        assert found["per_object"][name] == pytest.approx(numbers, abs=1e-3)
