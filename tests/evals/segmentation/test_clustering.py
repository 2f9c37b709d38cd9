"""From features to cluster maps."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sigma_jax.evals.segmentation import clustering, kmeans
from sigma_jax.evals.segmentation.matching import match_clip


def blobs(truth, num_objects, width, seed=0):
    """Features [F h w D] that tell the objects of `truth` [F h w] apart, with a little noise."""
    rng = np.random.default_rng(seed)
    means = 4 * rng.standard_normal((num_objects, width))
    return (means[truth] + 0.05 * rng.standard_normal((*truth.shape, width))).astype(np.float32)


def two_squares(frames=4, side=14):
    truth = np.zeros((frames, side, side), int)
    for i in range(frames):
        truth[i, 2:7, 1 + i : 6 + i] = 1
        truth[i, 8:13, 7:12] = 2
    return truth


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_separate_blobs_are_found_with_any_seed(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, 600)
    points = (np.where(truth, 5, -5)[:, None] + rng.standard_normal((600, 3))).astype(np.float32)
    settings = kmeans.KmeansSettings(seed=seed)
    labels = kmeans.assign(points, kmeans.fit(points.__getitem__, 600, 2, settings))
    assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 2


@pytest.mark.parametrize("upsampled", ["features", "labels"])
def test_perfect_features_give_a_perfect_score(upsampled):
    truth = two_squares()
    features = blobs(truth, 3, 60)
    reduced = clustering.reduce_tokens(features.reshape(-1, 60)).reshape(*truth.shape, -1)
    found = clustering.cluster_clip(reduced, 3, truth.shape[1:], upsampled=upsampled)
    assert match_clip(truth, found).miou > 0.999


def test_random_features_score_as_chance_does():
    truth = two_squares()
    features = np.random.default_rng(0).standard_normal((*truth.shape, 60)).astype(np.float32)
    reduced = clustering.reduce_tokens(features.reshape(-1, 60)).reshape(*truth.shape, -1)
    found = clustering.cluster_clip(reduced, 3, truth.shape[1:])
    chance = np.mean([match_clip(truth, np.random.default_rng(i).integers(0, 3, truth.shape)).miou for i in range(9)])
    assert match_clip(truth, found).miou == pytest.approx(chance, abs=0.08)


def test_a_clip_is_clustered_as_if_all_enlarged_features_were_made():
    features = np.random.default_rng(1).standard_normal((3, 5, 6, 8)).astype(np.float32)
    size = (40, 33)
    points = clustering.upsample(features, size).reshape(-1, 8)
    centroids = kmeans.fit(points.__getitem__, len(points), 4, kmeans.KmeansSettings())
    expected = kmeans.assign(points, centroids).reshape(3, *size)
    assert np.mean(clustering.cluster_clip(features, 4, size) != expected) < 1e-3


def test_features_and_labels_are_enlarged_differently():
    features = np.random.default_rng(2).standard_normal((2, 5, 5, 8)).astype(np.float32)
    maps = [clustering.cluster_clip(features, 3, (45, 45), upsampled=how) for how in ("features", "labels")]
    is_blocky = [(m.reshape(2, 5, 9, 5, 9) == m[:, 4::9, 4::9][:, :, None, :, None]).all() for m in maps]
    assert is_blocky == [False, True]


def test_standardise_and_pca_commute_with_upsampling():
    features = np.random.default_rng(3).standard_normal((2, 4, 4, 12)).astype(np.float32)
    tokens = features.reshape(-1, 12)
    standardized = clustering.standardize(tokens)
    mean, components, _ = clustering.principal_components(standardized, 6)
    first = clustering.upsample(((standardized - mean) @ components.T).reshape(2, 4, 4, 6), (9, 9))
    scale, shift = tokens.std(axis=0), tokens.mean(axis=0)
    last = ((clustering.upsample(features, (9, 9)) - shift) / scale - mean) @ components.T
    np.testing.assert_allclose(first, last, atol=1e-5)


def test_constant_channels_do_not_become_noise():
    tokens = np.random.default_rng(4).standard_normal((200, 5)).astype(np.float32)
    tokens[:, 2] = 0.1
    assert np.abs(clustering.standardize(tokens)[:, 2]).max() < 1e-6


def test_clips_are_reduced_together_block_by_block_as_if_they_were_one_matrix(monkeypatch):
    tokens = np.random.default_rng(6).standard_normal((300, 9)).astype(np.float32)
    whole = clustering.reduce_tokens(tokens, 4)
    monkeypatch.setattr(clustering, "_ROWS", 64)
    parts = clustering.reduce_clips([tokens[:130], tokens[130:]], 4)
    assert [len(part) for part in parts] == [130, 170]
    signs = np.sign((whole * np.concatenate(parts)).sum(axis=0))
    np.testing.assert_allclose(np.concatenate(parts) * signs, whole, atol=1e-5)


def test_frames_of_a_token_step_are_assigned_once(monkeypatch):
    features = np.random.default_rng(7).standard_normal((3, 4, 4, 6)).astype(np.float32)
    assigned, real = [], clustering._assign_frame
    monkeypatch.setattr(clustering, "_assign_frame", lambda *args: assigned.append(1) or real(*args))
    found = clustering.cluster_clip(np.repeat(features, 2, axis=0), 3, (20, 20))
    assert len(found) == 6 and len(assigned) == 3 and (found[::2] == found[1::2]).all()


def test_small_products_use_one_thread(monkeypatch):
    seen, real = [], clustering.kmeans.fit

    def fit(*args):
        seen.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return real(*args)

    monkeypatch.setattr(clustering.kmeans, "fit", fit)
    with threadpool_limits(2, "blas"):
        clustering.cluster_clip(np.ones((1, 4, 4, 6), np.float32), 2, (8, 8))
    assert seen and set(seen) == {1}


def test_narrow_features_keep_the_width_they_have():
    tokens = np.random.default_rng(5).standard_normal((200, 5)).astype(np.float32)
    assert clustering.reduce_tokens(tokens).shape == (200, 5)


def test_identical_points_and_as_many_clusters_as_points():
    points = np.ones((50, 3), np.float32)
    assert kmeans.fit(points.__getitem__, 50, 3, kmeans.KmeansSettings()).shape == (3, 3)
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    centroids = kmeans.fit(points.__getitem__, 4, 4, kmeans.KmeansSettings())
    assert sorted(kmeans.assign(points, centroids)) == [0, 1, 2, 3]


def test_distances_are_rounded_as_in_faiss():
    """It adds the squared lengths of points: two centroids whose distances differ by less than a rounding are equal."""
    points, centroids = np.float32([[1000, 0]]), np.float32([[5e-6, 0], [1e-5, 0]])
    assert kmeans.assign(points, centroids).tolist() == [0] and kmeans.assign(points / 1000, centroids).tolist() == [1]


def test_only_a_sample_of_the_points_is_looked_at():
    seen = []

    def points_at(rows):
        seen.append(len(rows))
        return np.random.default_rng(0).standard_normal((len(rows), 3)).astype(np.float32)

    kmeans.fit(points_at, 10**7, 3, kmeans.KmeansSettings())
    assert seen == [3 * 256]


def test_what_cannot_be_clustered():
    with pytest.raises(ValueError, match="expected 1 to 3"):
        kmeans.fit(np.ones((3, 2), np.float32).__getitem__, 3, 4, kmeans.KmeansSettings())
    with pytest.raises(ValueError, match="1 of 3 tokens are not finite"):
        clustering.reduce_tokens(np.array([[1.0, 2], [np.nan, 1], [0, 0]]))
    with pytest.raises(ValueError, match=r"expected \[F h w d\]"):
        clustering.cluster_clip(np.ones((2, 3, 4)), 2, (8, 8))
    with pytest.raises(ValueError, match="restarts=0"):
        kmeans.KmeansSettings(restarts=0)
