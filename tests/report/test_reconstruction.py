"""Predicted pixels: what is read, and what must not be."""

import numpy as np
import pytest
from PIL import Image

from sigma_jax.report.reconstruction import reconstruct, write_reconstruction
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.weights.frozen import load
from sigma_jax.weights.weights_file import write_npz
from tests.weights.weights_samples import sample


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "pixel.npz"
    weights = sample("pretrain_pixel_l2")
    weights.sizes.update(image_size=32)
    write_npz(path, weights)
    return load(path)


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(0).integers(30, 220, (1, 16, 32, 32, 3), np.uint8)


def is_hidden(views, clip):
    return (views.visible != clip[0]).any(axis=-1)


def test_visible_pixels_stay_and_hidden_ones_are_predicted(model, clip):
    views = reconstruct(model, clip, mask_ratio=0.75)
    hidden = is_hidden(views, clip)
    assert 0.7 < hidden.mean() < 0.8
    for view in (views.with_true_statistics, views.without):
        assert (view[~hidden] == clip[0][~hidden]).all() and (view[hidden] != clip[0][hidden]).any()


def test_the_view_without_true_statistics_never_reads_a_hidden_pixel(model, clip):
    views = reconstruct(model, clip, mask_ratio=0.75)
    hidden = is_hidden(views, clip)
    changed = clip.copy()
    changed[0][hidden] = 255 - changed[0][hidden]
    again = reconstruct(model, changed, mask_ratio=0.75)
    assert (again.without == views.without).all()
    assert (again.with_true_statistics != views.with_true_statistics).any()


def test_true_statistics_are_those_of_each_tube(model, clip):
    dark = clip.copy()
    dark[:, :, 16:] = dark[:, :, 16:] // 4
    views = reconstruct(model, dark, mask_ratio=0.75)
    hidden = is_hidden(views, dark)
    means = [view[hidden].mean() for view in (views.with_true_statistics, dark[0])]
    assert means[0] == pytest.approx(means[1], abs=4)


def test_pixels_as_they_are_need_no_statistics(model, clip):
    views = reconstruct(model, clip, standardized=False)
    assert (views.with_true_statistics == views.without).all()
    assert (views.without != reconstruct(model, clip).without).any()


def test_another_seed_hides_other_tubes(model, clip):
    masks = [is_hidden(reconstruct(model, clip, seed=seed), clip) for seed in (0, 1)]
    assert (masks[0] != masks[1]).any()


@pytest.mark.parametrize(
    "name,said", [("pretrain_mlp_swav", "predicts features of width"), ("dino_vit", "no decoder|without a decoder")]
)
def test_models_that_predict_no_pixels(tmp_path, clip, name, said):
    write_npz(tmp_path / "a.npz", sample(name))
    with pytest.raises(InvalidValue, match=said):
        reconstruct(load(tmp_path / "a.npz"), clip)


def test_the_picture_has_four_labelled_rows(tmp_path, model, clip):
    path = write_reconstruction(tmp_path / "a.png", reconstruct(model, clip))
    assert Image.open(path).height > 4 * 128
