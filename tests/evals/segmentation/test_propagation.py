"""Labels that travel."""

import dataclasses

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sigma_jax.evals.segmentation import propagation
from sigma_jax.evals.segmentation.propagation import PRESETS, PropagationSettings


def unique_features(height=6, width=8, dim=64, seed=0):
    """[h w D], no two tokens alike."""
    return np.random.default_rng(seed).standard_normal((height, width, dim)).astype(np.float32)


@pytest.mark.parametrize("preset", PRESETS)
def test_labels_follow_what_moves(preset):
    still = unique_features()
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 1:3] = 1
    first = propagation.first_labels(np.kron(mask, np.ones((16, 16), np.uint8)), (6, 8))
    moved = [np.roll(still, step, axis=1) for step in range(4)]
    soft = list(propagation.soft_labels(moved, first, PRESETS[preset]))
    for step, labels in enumerate(soft, start=1):
        hard = propagation.hard_labels(labels, 16, (6, 8), dataclasses.replace(PRESETS[preset], upsampling="nearest"))
        assert (hard == np.roll(mask, step, axis=1)).all()


def test_a_neighbourhood_hides_what_is_far():
    features, first = unique_features(), np.zeros((6, 8, 2), np.float32)
    first[..., 0] = 1
    first[0, 0] = (0, 1)
    context = features[None]
    target = np.broadcast_to(features[0, 0], features.shape)  # every token looks for the one at the corner
    found = {
        shape: propagation.propagate(target, context, first[None], PropagationSettings(radius=2, shape=shape, topk=1))
        for shape in ("square", "circle")
    }
    assert (found["square"][:3, :3, 1] == 1).all() and found["square"][..., 1].sum() == 9
    assert found["circle"][2, 2, 1] == 0 and found["circle"][2, 0, 1] == 1
    everywhere = propagation.propagate(target, context, first[None], PropagationSettings(radius=0, topk=1))
    assert (everywhere[..., 1] == 1).all()


def test_small_products_use_one_thread(monkeypatch):
    seen, real = [], propagation._weights

    def weights(*args):
        seen.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return real(*args)

    monkeypatch.setattr(propagation, "_weights", weights)
    with threadpool_limits(2, "blas"):
        propagation.propagate(unique_features(), unique_features()[None], np.ones((1, 6, 8, 2)), PRESETS["dino"])
    assert seen and set(seen) == {1}


def test_equals_the_plain_formula():
    rng = np.random.default_rng(1)
    context = propagation.normalized(rng.standard_normal((3, 5, 6, 9)))
    target = propagation.normalized(rng.standard_normal((5, 6, 9)))
    labels = rng.random((3, 5, 6, 4)).astype(np.float32)
    settings = PropagationSettings(radius=2, topk=4)
    affinity = np.exp(np.einsum("hwd,tabd->hwtab", target, context) / 0.1)
    rows, columns = np.abs(np.arange(5)[:, None] - np.arange(5)), np.abs(np.arange(6)[:, None] - np.arange(6))
    affinity *= (rows <= 2)[:, None, None, :, None] & (columns <= 2)[None, :, None, None, :]
    flat = affinity.reshape(30, -1)
    flat[flat < np.sort(flat, axis=1)[:, -4:-3]] = 0
    expected = (flat / flat.sum(axis=1, keepdims=True)) @ labels.reshape(-1, 4)
    found = propagation.propagate(target, context, labels, settings)
    np.testing.assert_allclose(found.reshape(30, 4), expected, atol=1e-5)


def test_sizes_of_frames():
    assert propagation.frame_size(480, 854, 16, PRESETS["dino"]) == (480, 832)
    assert propagation.frame_size(854, 480, 16, PRESETS["dino"]) == (832, 480)
    assert propagation.frame_size(480, 854, 14, PRESETS["dino"]) == (476, 854)
    assert propagation.frame_size(480, 854, 16, PRESETS["dinov3"]) == (960, 1712)
    with pytest.raises(ValueError, match="48 x 60 would become 32 x 0"):
        propagation.frame_size(48, 60, 16, PropagationSettings(short_side=32))


def test_void_is_background_in_the_first_frame():
    mask = np.full((32, 32), 255, np.uint8)
    mask[:16, :16] = 1
    labels = propagation.first_labels(mask, (2, 2))
    assert labels.argmax(axis=-1).tolist() == [[1, 0], [0, 0]] and labels.shape[-1] == 2


def test_settings_are_checked():
    for wrong in ({"topk": 0}, {"temperature": 0.0}, {"shape": "star"}, {"upsampling": "cubic"}, {"preset": "dinov9"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PropagationSettings(**wrong)
