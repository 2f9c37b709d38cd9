"""Clusters to objects: the worked examples, and what must not change a score."""

import numpy as np
import pytest

from sigma_jax.evals.segmentation.matching import average, match_clip, overlap

TRUTH = np.array([[0, 0, 1], [0, 2, 2]])
EXAMPLES = {  # name: (truth, clusters, hungarian, precision, iou)
    "A": (TRUTH, [[0, 0, 1], [1, 1, 2]], 0.5, 11 / 30, 0.5),
    "B": (TRUTH, [[0, 0, 1], [0, 2, 3]], 0.75, 1.0, 1.0),
    "C": (TRUTH, [[0, 0, 0], [0, 1, 1]], 7 / 12, 7 / 12, 7 / 12),
    "D": (np.array([[0, 0, 0], [0, 0, 1]]), [[0, 0, 0], [0, 1, 1]], 0.65, 5 / 12, 0.65),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("match", ["hungarian", "precision", "iou"])
def test_worked_examples(name, match):
    truth, clusters, *scores = EXAMPLES[name]
    expected = scores[("hungarian", "precision", "iou").index(match)]
    assert match_clip(truth[None], np.array([clusters]), match).miou == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("match", ["hungarian", "precision", "iou"])
def test_names_of_clusters_do_not_matter(match):
    rng = np.random.default_rng(0)
    truth, clusters = rng.integers(0, 4, (3, 9, 9)), rng.integers(0, 6, (3, 9, 9))
    renamed = rng.permutation(6)[clusters] * 7 + 3
    assert match_clip(truth, renamed, match).miou == pytest.approx(match_clip(truth, clusters, match).miou, abs=1e-12)


def test_clusters_left_over_become_background_even_without_background():
    truth = np.array([[[3, 3, 3, 5]]])
    matched = match_clip(truth, np.array([[[0, 0, 1, 2]]]))
    assert sorted(matched.cluster_object.tolist()) == [0, 3, 5]
    assert matched.relabel(np.array([[[0, 1, 2]]])).tolist() == [[[3, 0, 5]]]


def test_a_clip_of_background_scores_one_and_has_no_foreground():
    matched = match_clip(np.zeros((2, 4, 4), int), np.zeros((2, 4, 4), int))
    assert matched.miou == 1 and matched.miou_without_background == 0


def test_a_cluster_that_jumps_between_objects_is_not_rewarded():
    truth = np.array([[[0, 1]], [[0, 1]]])
    assert match_clip(truth, np.array([[[0, 1]], [[1, 0]]])).miou == pytest.approx(1 / 3)


@pytest.mark.parametrize("names", [[0, 1, 2, 255], [-7, 0, 3, 4], [5, 10**9, 10**12, -(10**12)]])
def test_any_numbers_may_name_objects_and_clusters(names):
    rng = np.random.default_rng(1)
    labels, clusters = rng.integers(0, 4, (2, 3, 9, 9))
    objects, found, pixels = overlap(np.array(names)[labels], np.array(names)[clusters])
    assert objects.tolist() == found.tolist() == sorted(names)
    order = np.argsort(names)
    expected = [[((labels == o) & (clusters == c)).sum() for c in order] for o in order]
    assert pixels.tolist() == expected


def test_averages():
    assert average([0.5, 0.7, 0.9]) == pytest.approx(0.7)
    assert average([0.5, 0.7, 0.9], "timet", 2) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="no clip has a score"):
        average([])
    with pytest.raises(ValueError, match="plain, timet"):
        average([1.0], "median")


def test_maps_that_do_not_fit_together():
    with pytest.raises(ValueError, match="one shape"):
        match_clip(np.zeros((1, 2, 2), int), np.zeros((1, 2, 3), int))
    with pytest.raises(ValueError, match="hungarian, precision, iou"):
        match_clip(np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int), "best")
