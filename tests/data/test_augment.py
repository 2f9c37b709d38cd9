"""Multi-scale crop against its enumeration by hand; resizing against Pillow."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sigma_jax.data import augment, decode

CLIP = Path(__file__).parent / "clips" / "scene" / "fruit_conveyor.mp4"


@pytest.fixture(scope="module")
def frames():
    return decode.decode_frames(CLIP.read_bytes(), np.array([0, 30, 59]))  # 240 x 426


def _boxes(height, width, sides):
    fifths = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)]
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)]
    for i, j in pairs:
        h, w = sides[i], sides[j]
        for x, y in fifths:
            yield y * ((height - h) // 4), x * ((width - w) // 4), h, w


@pytest.mark.parametrize(
    ("height", "width", "sides"),
    [(240, 320, (240, 210, 180, 158)), (320, 256, (256, 224, 192, 168)), (226, 300, (224, 197, 169, 149))],
)
def test_multi_scale_boxes(height, width, sides):
    rng = np.random.default_rng(0)
    drawn = Counter(augment.multi_scale_crop_box(height, width, 224, rng) for _ in range(13000))
    assert set(drawn) == set(_boxes(height, width, sides))
    expected = Counter(_boxes(height, width, sides))  # the same box can arise several ways where there is no free space
    for box, ways in expected.items():
        assert drawn[box] == pytest.approx(100 * ways, abs=6 * (100 * ways) ** 0.5), box


def test_a_side_never_leaves_the_frame():
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, h, w = augment.multi_scale_crop_box(223, 222, 224, rng)
        assert top >= 0 and left >= 0 and top + h <= 223 and left + w <= 222


def _resized(frames, box, size):
    top, left, h, w = box
    return augment.resize_fast(frames[:, top : top + h, left : left + w], size, size)


def _pillow(frames, box, size):
    top, left, h, w = box
    crops = (Image.fromarray(f).crop((left, top, left + w, top + h)) for f in frames)
    return np.stack([np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)) for crop in crops])


@pytest.mark.parametrize("box", [(0, 40, 240, 240), (7, 11, 240 - 7, 180), (30, 0, 210, 240)])
def test_shrinking_is_pillows(frames, box):
    top, left, h, w = box
    resized = augment.resize(frames[:, top : top + h, left : left + w], 160, 160)
    np.testing.assert_array_equal(resized, _pillow(frames, box, 160))


@pytest.mark.parametrize("size", [120, 137, 160, 179, 192, 210, 224, 238])
def test_fast_shrinking_is_close_to_pillows(frames, size):
    box = (0, 40, 240, 230)
    error = np.abs(_resized(frames, box, size).astype(int) - _pillow(frames, box, size))
    aliased = [cv2.resize(f[:, 40:270], (size, size), interpolation=cv2.INTER_LINEAR) for f in frames]
    aliased_error = np.abs(np.stack(aliased).astype(int) - _pillow(frames, box, size))
    assert error.mean() < 0.6
    if size < 200:
        assert error.mean() < 0.9 * aliased_error.mean()


def test_far_shrinking_is_pillows_in_training_too(frames):
    box = (0, 0, 240, 240)
    np.testing.assert_array_equal(_resized(frames, box, 100), _pillow(frames, box, 100))


@pytest.mark.parametrize("box", [(15, 100, 210, 210), (40, 30, 158, 180), (10, 200, 224, 224)])
def test_enlarging_is_close_to_pillows(frames, box):
    error = np.abs(_resized(frames, box, 224).astype(int) - _pillow(frames, box, 224))
    assert error.mean() < 0.25 and error.max() <= 1


def test_center_crop_resize(frames):
    out = augment.center_crop_resize(frames, 112)
    whole = np.stack([np.asarray(Image.fromarray(f).resize((198, 112), Image.Resampling.BILINEAR)) for f in frames])
    np.testing.assert_array_equal(out, whole[:, :, 43 : 43 + 112])
    tall = augment.center_crop_resize(frames.transpose(0, 2, 1, 3), 112)
    np.testing.assert_allclose(tall, out.transpose(0, 2, 1, 3).astype(int), atol=1)  # rounded once per axis
