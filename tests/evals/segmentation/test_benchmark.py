"""Options of the protocol: each changes something; and the monitor's numbers."""

import dataclasses
import functools

import numpy as np
import pytest

from sigma_jax.evals.segmentation import benchmark, frames
from sigma_jax.evals.segmentation.kmeans import KmeansSettings
from sigma_jax.evals.segmentation.settings import PROTOCOLS, ClusteringSettings
from tests.evals.segmentation.test_clustering import blobs, two_squares

SETTINGS = ClusteringSettings(num_frames=4, image_size=28, kmeans=KmeansSettings(restarts=1))


def clip(seed=0):
    labels = np.kron(two_squares(), np.ones((1, 2, 2), int)).astype(np.int16)
    video = np.random.default_rng(seed).integers(0, 256, (4, 28, 28, 3), np.uint8)
    return frames.Clip(f"clip{seed}", video, labels, np.arange(4))


class Model:
    """Answers with what it was asked for, in a place that tells."""

    token_size, frames_per_step = 2, 2

    def dense_features(self, video, *, final_norm, resize_positions):
        features = blobs(two_squares()[::2], 3, 64)[None]
        features[..., 0] += 10 * final_norm
        features[..., 1] += video.astype(np.float64).mean()
        return features


def noisy_tokens(steps=2, seed=0):
    rng = np.random.default_rng(seed)
    return blobs(two_squares(), 3, 64)[:: 4 // steps] + 6 * rng.standard_normal((steps, 14, 14, 64)).astype(np.float32)


@functools.lru_cache
def maps(settings, protocol="overclustering"):
    clips, tokens = [clip(0), clip(1)], [noisy_tokens(seed=0), 3 + 2 * noisy_tokens(seed=1)]
    scored = [entries[0] for entries in benchmark.score_batch(clips, tokens, (protocol,), settings)]
    return np.concatenate([entry.cluster_map.ravel() for entry in scored]), [entry.match.miou for entry in scored]


@pytest.mark.parametrize(
    "change",
    [
        {"time": "even"},
        {"time": "linear"},
        {"statistics": "clip"},
        {"dims": 2},
        {"upsampled": "labels"},
        {"num_clusters": 4},
        {"kmeans": KmeansSettings(restarts=1, seed=9)},
        {"kmeans": KmeansSettings(restarts=4)},
        {"kmeans": KmeansSettings(restarts=1, iterations=1)},
    ],
    ids=str,
)
def test_every_choice_changes_the_outcome(change):
    assert maps(SETTINGS)[1] != maps(dataclasses.replace(SETTINGS, **change))[1]


def test_greedy_matching_by_iou_or_by_precision():
    tokens = np.random.default_rng(0).standard_normal((2, 14, 14, 64)).astype(np.float32)
    choices = [dataclasses.replace(SETTINGS, greedy=how) for how in ("precision", "iou")]
    scored = [next(benchmark.score_batch([clip()], [tokens], ("overclustering",), choice))[0] for choice in choices]
    assert (scored[0].cluster_map == scored[1].cluster_map).all()
    assert scored[0].match.cluster_object.tolist() != scored[1].match.cluster_object.tolist()


def test_batches_of_another_size_average_otherwise():
    scores = [0.5, 0.7, 0.9]
    found = [
        benchmark.averages(scores, dataclasses.replace(SETTINGS, average=how, batch_size=2))["score"]
        for how in ("plain", "timet")
    ]
    assert found == pytest.approx([70, 75])


def test_what_the_model_is_asked_for():
    video = clip().video
    with_norm, without = (
        benchmark.clip_tokens(Model(), video, dataclasses.replace(SETTINGS, final_norm=choice))
        for choice in (True, False)
    )
    assert with_norm.shape == (2, 14, 14, 64) and (with_norm - without)[..., 0].mean() == pytest.approx(10)
    floats = benchmark.clip_tokens(Model(), video, dataclasses.replace(SETTINGS, timet_std=True))
    shift = (video[..., 0] / 255 - 0.485).mean() * (0.229 / 0.228 - 1) / 3
    expected = (video / 255).mean() + shift - video.mean()
    assert (floats - with_norm)[..., 1].mean() == pytest.approx(expected, rel=1e-4)


def test_one_seed_is_enough_for_frames_that_are_not_drawn():
    assert dataclasses.replace(SETTINGS, draw="linspace").seeds == (0,)


def test_left_out_pixels_do_not_count():
    labels = clip().labels.copy()
    labels[:, :10] = -1
    cut = dataclasses.replace(clip(), labels=labels)
    (entries,) = benchmark.score_batch([cut], [noisy_tokens()], PROTOCOLS, SETTINGS)
    assert sum(entries[0].match.tp) + sum(entries[0].match.fn) == (labels >= 0).sum()
    assert entries[0].num_clusters == cut.num_objects


def test_the_monitor_of_good_and_bad_features():
    clips = [clip(0), clip(1)]

    def dense(params, video):
        truth = np.stack([two_squares()[::2]] * len(video))
        good = np.stack([blobs(labels, 3, 64) for labels in truth])
        return params * good + (1 - params) * np.random.default_rng(0).standard_normal(good.shape)

    evaluator = benchmark.ClusteringEvaluator(dense, clips, SETTINGS, PROTOCOLS)
    good, bad = dict(evaluator.run(1.0, 7)), dict(evaluator.run(0.0, 7))
    assert set(good) == {"segmentation/clustering", "segmentation/overclustering"}
    assert good["segmentation/clustering"] > 80 > 50 > bad["segmentation/clustering"]


def test_settings_are_checked():
    for wrong in ({"time": "never"}, {"draw": "first"}, {"dims": 0}, {"seeds": (1, 1)}, {"average": "median"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ClusteringSettings(**wrong)
