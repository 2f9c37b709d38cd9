"""sigma_jax.load: three lines from a file to features, at any length and size."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import sigma_jax
from sigma_jax.weights.weights_file import write_npz
from tests.weights.weights_samples import sample


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    for name in ("pretrain_dino_swav", "finetune_cls", "dino_vit"):
        weights = sample(name)
        if weights.kind != "teacher":
            weights.sizes.update(image_size=32)
        write_npz(root / f"{name}.npz", weights)
    return root


def test_importing_is_cheap():
    """Neither JAX nor PyTorch is imported before load is called."""
    code = "import sys, sigma_jax; print([m for m in ('jax', 'torch', 'numpy') if m in sys.modules], sigma_jax.load)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("[] <function load")


def test_three_lines(paths):
    frames = np.random.default_rng(0).integers(0, 256, (70, 40, 50, 3), np.uint8)
    model = sigma_jax.load(paths / "pretrain_dino_swav.npz")
    clip = model.preprocess(frames)
    features = model.features(clip)
    assert clip.shape == (1, 16, 32, 32, 3) and clip.dtype == np.uint8
    assert features.shape == (1, model.width) == (1, 48) and features.dtype == np.float32
    assert model.report.fraction == 1


def test_uint8_and_unit_floats_are_the_same_video(paths):
    video = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 32, 3), np.uint8)
    model = sigma_jax.load(paths / "finetune_cls.npz")
    floats = video.astype(np.float32) / 255
    np.testing.assert_allclose(model.features(video), model.features(floats), atol=1e-5)


@pytest.mark.parametrize("frames,height,width", [(2, 8, 16), (4, 32, 16), (16, 32, 32), (20, 40, 24)])
def test_any_number_of_frames_and_any_size(paths, frames, height, width):
    video = np.zeros((1, frames, height, width, 3), np.uint8)
    tokens = sigma_jax.load(paths / "pretrain_dino_swav.npz").features(video, pool=False)
    assert tokens.shape == (1, frames // 2 * height // 8 * width // 8, 48) and np.isfinite(tokens).all()


def test_pooled_features_are_what_the_head_sees(paths):
    video = np.random.default_rng(0).random((2, 16, 32, 32, 3), np.float32)
    model = sigma_jax.load(paths / "finetune_cls.npz")
    head = model.params["head"]
    logits = jax.jit(model.module.apply)({"params": model.params}, video)
    np.testing.assert_allclose(model.features(video) @ head["kernel"] + head["bias"], logits, atol=2e-5)


def test_a_teacher_gives_features_of_frames(paths):
    model = sigma_jax.load(paths / "dino_vit.npz")
    video = np.random.default_rng(0).random((2, 3, 48, 64, 3), np.float32)  # the learned table is resized
    assert model.features(video).shape == (2, 48)
    assert model.features(video, pool=False).shape == (2, 3 * 3 * 4, 48)


def test_wrong_videos_are_refused(paths):
    model = sigma_jax.load(paths / "pretrain_dino_swav.npz")
    for shape, message in (
        ((16, 32, 32, 3), "expected \\[B F y x 3\\]"),
        ((1, 3, 16, 32, 32), "colours last"),
        ((1, 15, 32, 32, 3), "num_frames=15 is not a multiple"),
        ((1, 16, 30, 32, 3), "is not a multiple of the tube's 8x8"),
    ):
        with pytest.raises(ValueError, match=message):
            model.features(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        model.preprocess(np.zeros((16, 32, 32, 3), np.float32))


def test_dense_features_are_the_tokens_in_their_grid(paths):
    model = sigma_jax.load(paths / "pretrain_dino_swav.npz")
    video = np.random.default_rng(0).random((2, 16, 32, 32, 3), np.float32)
    dense = model.dense_features(video)
    assert dense.shape == (2, 8, 4, 4, 48)
    np.testing.assert_array_equal(np.asarray(dense).reshape(2, -1, 48), model.features(video, pool=False))
    without = np.asarray(model.dense_features(video, final_norm=False))
    scale, bias = (np.asarray(model.params["encoder"]["norm"][name]) for name in ("scale", "bias"))
    normed = (without - without.mean(-1, keepdims=True)) / np.sqrt(without.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(normed * scale + bias, dense, atol=1e-4)


def test_a_teacher_has_one_step_per_frame(paths):
    model = sigma_jax.load(paths / "dino_vit.npz")
    video = np.random.default_rng(0).random((1, 3, 48, 64, 3), np.float32)
    dense = model.dense_features(video)
    assert dense.shape == (1, 3, 3, 4, 48)
    assert np.abs(model.dense_features(video, final_norm=False) - dense).max() > 0.1


def test_positions_of_larger_frames_are_resized_where_asked(paths):
    model = sigma_jax.load(paths / "pretrain_dino_swav.npz")
    small, large = (np.full((1, 2, side, side, 3), 0.5, np.float32) for side in (32, 48))
    same = [np.asarray(model.dense_features(small, resize_positions=choice)) for choice in (False, True)]
    np.testing.assert_allclose(*same, atol=1e-6)  # the size of training
    computed, resized = (np.asarray(model.dense_features(large, resize_positions=choice)) for choice in (False, True))
    assert computed.shape == resized.shape == (1, 1, 6, 6, 48) and np.abs(computed - resized).max() > 0.01
    last = [np.abs(tokens[0, 0, -1, -1] - same[0][0, 0, -1, -1]).mean() for tokens in (computed, resized)]
    assert last[1] < last[0]  # the last token stays near the last position that was trained
