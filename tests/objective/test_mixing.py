"""Erasing, mixup and cutmix: worked checks, shares and distributions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.objective.classification import smoothed_targets
from sigma_jax.objective.mixing import MixSettings, cutmix_box, erase, mix, mix_targets
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD
from sigma_jax.runtime.sharding import make_mesh, shard_batch, traced_on


def test_cutmix_box_is_cut_at_the_frame():
    inside, share = jax.jit(cutmix_box, static_argnums=2)(0.7, (10, 112), (224, 224))
    rows, columns = np.nonzero(np.asarray(inside))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (0, 71, 51, 173)
    assert float(share) == pytest.approx(0.8274, abs=5e-5)
    assert np.asarray(inside).mean() == pytest.approx(1 - float(share), abs=1e-6)


def test_mixed_smoothed_targets():
    targets = mix_targets(smoothed_targets(jnp.asarray([2, 0]), 4, 0.1), 0.7)
    np.testing.assert_allclose(targets[0], [0.295, 0.025, 0.655, 0.025], atol=1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)


@pytest.fixture(scope="module")
def mixed():
    video = jnp.broadcast_to(jnp.arange(4.0)[:, None, None, None, None], (4, 2, 16, 16, 3))
    run = jax.jit(lambda key: mix(key, video, jnp.eye(4), MixSettings()))
    return [jax.tree.map(np.asarray, run(jax.random.key(i))) for i in range(200)]


def test_clips_and_targets_are_mixed_alike(mixed):
    for video, targets in mixed:
        lam = targets[0, 0]
        np.testing.assert_allclose(targets, lam * np.eye(4) + (1 - lam) * np.eye(4)[::-1], atol=1e-6)
        means = video.mean(axis=(1, 2, 3, 4))  # clip i is all i, its partner all 3 - i
        np.testing.assert_allclose(means, lam * np.arange(4) + (1 - lam) * (3 - np.arange(4)), atol=1e-4)
        assert (video == video[:, :1]).all()  # the same in all frames


def test_half_of_the_batches_are_cut(mixed):
    is_cut = [np.isin(video, np.arange(4.0)).all() for video, _ in mixed]
    assert 70 < sum(is_cut) < 130
    lams = np.asarray([targets[0, 0] for _, targets in mixed])
    assert lams.min() < 0.1 and lams.max() > 0.9


@pytest.mark.parametrize("clips", [16, 8])
def test_devices_mix_their_own_clips(clips, devices):
    """No video crosses devices where each has an even number of clips; else all are reversed, as on one device."""
    mesh = make_mesh(devices=devices)
    video = np.broadcast_to(np.arange(float(clips), dtype=np.float32)[:, None, None, None, None], (clips, 2, 8, 8, 3))
    targets = np.eye(clips, dtype=np.float32)
    step = jax.jit(traced_on(mesh, lambda key, v, t: mix(key, v, t, MixSettings(cutmix_share=0.0))))
    placed = shard_batch(mesh, {"video": video, "targets": targets})
    compiled = step.lower(jax.random.key(3), placed["video"], placed["targets"]).compile()
    mixed, labels = compiled(jax.random.key(3), placed["video"], placed["targets"])
    rows = clips // len(devices)
    partner = np.arange(clips).reshape(-1, rows)[:, ::-1].ravel() if rows % 2 == 0 else np.arange(clips)[::-1]
    lam = float(labels[0, 0])
    np.testing.assert_allclose(labels, lam * targets + (1 - lam) * targets[partner], atol=1e-6)
    np.testing.assert_allclose(mixed, lam * video + (1 - lam) * video[partner], atol=1e-5)
    collectives = re.findall(r"(?:all-|collective-|reduce-scatter)[a-z]+\(", compiled.as_text())
    assert bool(collectives) == (rows % 2 == 1), collectives


def test_an_odd_batch_is_refused():
    with pytest.raises(ValueError, match="make the batch size even"):
        mix(jax.random.key(0), jnp.zeros((3, 1, 4, 4, 3)), jnp.eye(3), MixSettings())


def test_erasing_fills_one_box_with_normal_noise():
    video = jnp.full((400, 2, 24, 24, 3), 0.5)
    out = np.asarray(jax.jit(lambda v: erase(jax.random.key(1), v, 0.25))(video))
    changed = (out != 0.5).all(axis=-1)  # [B F H W]
    assert (changed == changed[:, :1]).all()
    touched = changed[:, 0].any(axis=(1, 2))
    assert 70 < touched.sum() < 130
    areas = changed[touched, 0].mean(axis=(1, 2))
    assert areas.min() > 0.01 and areas.max() < 0.37
    for box in changed[touched, 0]:
        rows, columns = np.nonzero(box)
        assert box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    noise = (out[changed] - np.asarray(PIXEL_MEAN)) / np.asarray(PIXEL_STD)
    assert np.abs(noise.mean(axis=0)).max() < 0.05 and np.abs(noise.std(axis=0) - 1).max() < 0.05
    frames = out[touched]
    assert (frames[:, 0] != frames[:, 1]).any(axis=(1, 2, 3)).all()  # new noise in every frame


def test_erasing_never():
    video = np.full((4, 1, 8, 8, 3), 0.5, np.float32)
    np.testing.assert_array_equal(jax.jit(lambda v: erase(jax.random.key(0), v, 0.0))(video), video)
