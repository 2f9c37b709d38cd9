"""Feature extraction, the raw-pixel control, and the evaluator over both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.evals.features import extract, extract_all, raw_pixel_features
from sigma_jax.evals.frozen_features import FrozenFeatures


@jax.jit
def _mean_colour(video):
    return jnp.mean(video.astype(jnp.float32), axis=(1, 2, 3))


def _clips(num, seed=0):
    """Clips whose label = 3 * (is the first half bright) + brightest colour; [num 8 16 16 3]."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 6, num)
    video = rng.integers(40, 60, (num, 8, 16, 16, 3))
    video[np.arange(num), :, :, :, label % 3] += 60
    for i in range(num):
        half = slice(0, 4) if label[i] >= 3 else slice(4, 8)
        video[i, half] += 60
    return video.astype(np.uint8), label


def _batches(video, label, size):
    for start in range(0, len(label), size):
        rows = np.arange(start, start + size)
        weight = (rows < len(label)).astype(np.float32)
        rows = np.minimum(rows, len(label) - 1)  # padding repeats the last clip
        yield {"video": video[rows], "label": label[rows], "weight": weight}


def test_padding_and_batch_size_do_not_matter():
    video, label = _clips(13)
    whole, whole_label = extract(_mean_colour, [{"video": video, "label": label}])
    assert whole.shape == (13, 3) and whole.dtype == np.float32
    for size in (1, 4, 13, 32):
        features, labels = extract(_mean_colour, _batches(video, label, size))
        np.testing.assert_allclose(features, whole, rtol=1e-6)
        np.testing.assert_array_equal(labels, whole_label)


def test_several_networks_share_one_pass():
    video, label = _clips(13)
    networks = {"mean": _mean_colour, "pixels": raw_pixel_features}
    found = extract_all(networks, _batches(video, label, 4))  # a generator: it can be read once only
    assert list(found) == ["mean", "pixels"]
    for name, network in networks.items():
        features, labels = extract(network, _batches(video, label, 4))
        np.testing.assert_array_equal(found[name][0], features)
        np.testing.assert_array_equal(found[name][1], labels)


def test_broken_features_are_named():
    video, label = _clips(4)
    batch = {"video": video, "label": label}
    with pytest.raises(ValueError, match="1 of 4 rows of features are not finite .first: row 2"):
        extract(lambda video: jnp.ones((4, 3)).at[2, 1].set(jnp.nan), [batch])
    with pytest.raises(ValueError, match=r"returned \(4,\) for 4 clips"):
        extract(lambda video: jnp.ones((4,)), [batch])
    with pytest.raises(ValueError, match="no clips"):
        extract(_mean_colour, [batch | {"weight": np.zeros(4)}])
    with pytest.raises(ValueError, match="no clips"):
        extract(_mean_colour, [])


def test_raw_pixels_are_cell_means():
    video = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 32, 3)).astype(np.uint8)
    cells = video.reshape(2, 8, 2, 8, 3, 8, 4, 3).mean(axis=(2, 4, 6)) / 255
    np.testing.assert_allclose(raw_pixel_features(video), cells.reshape(2, -1), rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4, 5, 7, 3), (1, 11, 13, 30, 3), (1, 1, 1, 1, 3)])
def test_raw_pixels_of_any_size(shape):
    features = np.asarray(raw_pixel_features(np.full(shape, 51, np.uint8)))
    assert features.shape == (1, 1536)
    np.testing.assert_allclose(features, 0.2, rtol=1e-5)  # every cell is a mean: weights sum to one


def test_evaluator_tells_what_features_know():
    train, test = _clips(240), _clips(101, seed=1)
    evaluator = FrozenFeatures(
        lambda network, video: network["features"](video),
        lambda: _batches(*train, 32),
        lambda: _batches(*test, 32),
        {"order": (lambda label: label // 3, 2), "colour": (lambda label: label % 3, 3), "joint": (np.asarray, 6)},
    )
    colour = dict(evaluator.run({"features": _mean_colour}))
    assert list(colour) == ["knn/order", "linear/order", "knn/colour", "linear/colour", "knn/joint", "linear/joint"]
    assert colour["knn/colour"] == 100 and colour["linear/colour"] == 100
    assert colour["knn/order"] < 75 and colour["linear/order"] < 75  # a mean over time cannot know the order
    pixels = dict(evaluator.run({"features": raw_pixel_features}))
    assert set(pixels.values()) == {100.0}
    assert dict(evaluator.run({"features": _mean_colour})) == colour  # the factories give the clips again
