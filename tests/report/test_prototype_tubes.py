"""The 25 tubes of a clip nearest to each prototype."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from sigma_jax.report import prototype_tubes as tubes
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.weights.frozen import load
from sigma_jax.weights.weights_file import write_npz
from tests.weights.weights_samples import sample


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root, loaded = tmp_path_factory.mktemp("weights"), {}
    for name in ("pretrain_mlp_swav", "pretrain_dino_swav", "pretrain_pixel_l2", "dino_vit", "finetune_cls"):
        weights = sample(name)
        if weights.kind != "teacher":
            weights.sizes.update(image_size=32)
        write_npz(root / f"{name}.npz", weights)
        loaded[name] = load(root / f"{name}.npz")
    return loaded


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(0).integers(0, 256, (1, 16, 32, 32, 3), np.uint8)


def test_scores_are_cosines_of_all_tubes(models, clip):
    model = models["pretrain_mlp_swav"]
    scores = tubes.tube_scores(model, clip)
    assert scores.shape == (8 * 2 * 2, model.weights.sizes["num_prototypes"]) and np.abs(scores).max() <= 1 + 1e-5
    longer = dataclasses.replace(model, params=model.params | {"prototypes": 7 * model.params["prototypes"]})
    np.testing.assert_allclose(tubes.tube_scores(longer, clip), scores, atol=1e-5)


def test_a_planted_prototype_finds_its_tube(models, clip):
    model = models["pretrain_mlp_swav"]
    prototypes = np.array(model.params["prototypes"])
    prototypes[3] = 5 * np.asarray(tubes.tube_projections(model, clip))[17]
    scores = tubes.tube_scores(dataclasses.replace(model, params=model.params | {"prototypes": prototypes}), clip)
    assert tubes.nearest_tubes(scores, 3)[0] == 17 and scores[17, 3] == pytest.approx(1, abs=1e-5)


def test_a_model_with_a_teacher(models, clip):
    model, teacher = models["pretrain_dino_swav"], models["dino_vit"]
    if teacher.width != model.weights.sizes["target_width"]:
        with pytest.raises(InvalidValue, match="expected a teacher of"):
            tubes.tube_scores(model, clip, teacher)
        prototypes = np.random.default_rng(0).standard_normal((6, teacher.width)).astype(np.float32)
        weights = dataclasses.replace(model.weights, sizes=model.weights.sizes | {"target_width": teacher.width})
        model = dataclasses.replace(model, weights=weights, params=model.params | {"prototypes": prototypes})
    scores = tubes.tube_scores(model, clip, teacher)
    assert len(scores) == np.prod(model.token_grid((16, 32, 32))) and np.isfinite(scores).all()
    with pytest.raises(InvalidValue, match="pass --teacher"):
        tubes.tube_scores(model, clip)
    with pytest.raises(InvalidValue, match="is a classifier model"):
        tubes.tube_scores(model, clip, models["finetune_cls"])


@pytest.mark.parametrize("name", ["pretrain_pixel_l2", "finetune_cls", "dino_vit"])
def test_what_a_model_without_prototypes_lacks(models, clip, name):
    with pytest.raises(InvalidValue, match="has no prototypes"):
        tubes.tube_scores(models[name], clip)


def test_ties_go_to_the_lower_number_and_unused_prototypes_are_not_shown():
    scores = np.zeros((30, 4))
    scores[:, 2] = 1
    assert tubes.nearest_tubes(scores, 0).tolist() == list(range(25))
    ids, shares = tubes.used_prototypes(scores, 4)
    assert ids.tolist() == [2] and shares.tolist() == [1]


@pytest.mark.parametrize("count", [1, 3, 7, 12])
def test_the_picture_shows_the_first_frames_of_tubes(tmp_path, clip, count):
    scores = np.random.default_rng(1).standard_normal((128, 40))
    path = tubes.write_prototype_tubes(tmp_path / "a.png", clip[0], scores, (2, 8, 8), max_prototypes=count)
    picture = np.asarray(Image.open(path))
    (first, *_), _ = tubes.used_prototypes(scores, count)
    best = int(scores[:, first].argmax())
    tile = clip[0, best // 16 * 2, best // 4 % 4 * 8 :, best % 4 * 8 :][:8, :8].repeat(4, axis=0).repeat(4, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (32, 32, 3))[:, :, 0]
    corners = np.argwhere((windows[:, :, 0, 0] == tile[0, 0]).all(axis=-1))
    assert any((windows[y, x] == tile).all() for y, x in corners)
    with pytest.raises(InvalidValue, match="the clip has 128"):
        tubes.write_prototype_tubes(tmp_path / "b.png", clip[0], scores[:99], (2, 8, 8))
