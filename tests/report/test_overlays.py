"""One colour per object, in every frame and row."""

import numpy as np
import pytest
from PIL import Image

from sigma_jax.report import overlays


def test_clusters_take_the_colours_of_their_objects():
    labels = np.zeros((2, 8, 8), int)
    labels[:, 2:5, 2:5] = 7
    clusters = np.where(labels == 7, 4, 9)
    clusters[:, 7] = 2  # matches nothing
    numbers = overlays.cluster_numbers(clusters, labels)
    objects = overlays.object_numbers(labels)
    assert (numbers[labels == 7] == objects[labels == 7]).all() and (numbers[:, 0] == 0).all()
    assert set(np.unique(numbers)) == {0, 1, 2} and (numbers[:, 7] == 2).all()


def test_pixels_that_do_not_count():
    labels = np.full((1, 4, 4), -1)
    labels[0, :2] = 0
    clusters = np.arange(16).reshape(1, 4, 4)
    assert len(np.unique(overlays.cluster_numbers(clusters, labels))) == 16
    assert (overlays.object_numbers(labels)[0, 2:] == -1).all()


def test_tint_is_a_mean_and_leaves_negative_numbers():
    frame = np.full((1, 1, 2, 3), 100, np.uint8)
    tinted = overlays.tint(frame, np.array([[[1, -1]]]))
    assert tinted[0, 0, 0].tolist() == [170, 95, 80] and (tinted[0, 0, 1] == 100).all()
    with pytest.raises(ValueError, match=r"expected \[\.\.\. y x 3\]"):
        overlays.tint(frame, np.zeros((1, 2, 2), int))


def test_picture_and_animation(tmp_path):
    video = np.zeros((5, 32, 32, 3), np.uint8)
    video[np.arange(5), np.arange(5)] = 200  # frames that are equal would be one
    rows = {"ours": np.zeros((5, 32, 32), int), "ground truth": np.ones((5, 32, 32), int)}
    picture = np.asarray(Image.open(overlays.write_overlays(tmp_path / "a.png", video, rows)))
    for color in overlays.COLORS[:2]:
        assert (picture == np.round(color / 2)).all(axis=-1).sum() == 3 * 224 * 217  # 31 of 32 rows, sevenfold
    animation = Image.open(overlays.write_overlay_animation(tmp_path / "a.gif", video, rows))
    assert animation.n_frames == 5 and animation.width > 3 * 224
    above = np.asarray(animation.convert("L"))[: overlays.HEADER]  # each panel has its name
    assert all(part.min() < 128 for part in np.array_split(above, 3, axis=1))
