"""RandAugment against Pillow's formulas, crops against the worked checks, distributions against the recipe."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageChops

from sigma_jax.data import finetune_augment as fa

RNG = np.random.default_rng(3)
PICTURE = Image.fromarray(RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8))
PIXELS = np.asarray(PICTURE).astype(np.float64)


def _apply(name, m, sign=1, image=PICTURE):
    return np.asarray(fa.OPERATIONS[name](image, m, sign))


def _lookup(function):
    return np.asarray([function(v) for v in range(256)])[np.asarray(PICTURE)]


def test_there_are_fifteen():
    assert len(fa.OPERATIONS) == 15


@pytest.mark.parametrize(
    ("name", "m", "function"),
    [
        ("Invert", 7, lambda v: 255 - v),
        ("Posterize", 7, lambda v: v & 0b11000000),  # 2 bits
        ("Posterize", 10, lambda v: 0),
        ("Posterize", 0, lambda v: v & 0b11110000),
        ("Solarize", 7, lambda v: v if v < 77 else 255 - v),
        ("Solarize", 10, lambda v: 255 - v),
        ("SolarizeAdd", 7, lambda v: min(255, v + 77) if v < 128 else v),
    ],
)
def test_operations_on_values(name, m, function):
    np.testing.assert_array_equal(_apply(name, m), _lookup(function))


def test_autocontrast_and_equalize_per_channel():
    dull = Image.fromarray((PIXELS // 4 + 50).astype(np.uint8))
    low, high = np.asarray(dull).min((0, 1)), np.asarray(dull).max((0, 1))
    stretched = (np.asarray(dull).astype(float) - low) * 255 / (high - low)
    assert np.abs(_apply("AutoContrast", 7, image=dull) - stretched).max() <= 1
    equal = _apply("Equalize", 7, image=dull)
    assert equal.min() == 0 and equal.max() >= 250
    order = np.argsort(np.asarray(dull)[..., 0].ravel(), kind="stable")
    assert (np.diff(equal[..., 0].ravel()[order].astype(int)) >= 0).all()  # keeps the order of values


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("m", [7.0, 3.3])
def test_enhancements(m, sign):
    factor = 1 + sign * 0.09 * m
    grey = np.asarray(PICTURE.convert("L")).astype(np.float64)
    blends = {"Brightness": 0 * PIXELS, "Color": grey[..., None] + 0 * PIXELS, "Contrast": int(grey.mean() + 0.5)}
    for name, degenerate in blends.items():
        expected = np.clip(degenerate + factor * (PIXELS - degenerate), 0, 255)
        assert np.abs(_apply(name, m, sign) - expected).max() <= 1, name


def test_sharpness_smooths_or_sharpens():
    def roughness(image):
        return np.abs(np.diff(image.astype(float), axis=1)).mean()

    assert roughness(_apply("Sharpness", 7, -1)) < roughness(PIXELS) < roughness(_apply("Sharpness", 7, 1))


@pytest.mark.parametrize("sign", [1, -1])
def test_translations_are_shares_of_the_side(sign):
    shifted_x, shifted_y = _apply("TranslateX", 10 / 0.45 / 2, sign), _apply("TranslateY", 10 / 0.45 / 2, sign)
    # at a strength whose shift is a whole number of pixels: half the side
    half = ImageChops.offset(PICTURE, -sign * 30, 0)
    columns = slice(0, 30) if sign > 0 else slice(30, 60)
    close = {"atol": 1, "rtol": 0}  # Pillow's bicubic filter rounds down
    np.testing.assert_allclose(shifted_x[:, columns].astype(int), np.asarray(half)[:, columns].astype(int), **close)
    rows = slice(0, 20) if sign > 0 else slice(20, 40)
    moved = np.asarray(ImageChops.offset(PICTURE, 0, -sign * 20))
    np.testing.assert_allclose(shifted_y[rows].astype(int), moved[rows].astype(int), **close)
    assert (np.delete(shifted_x, np.arange(60)[columns], axis=1) == 128).all()  # uncovered: grey


def _centre_of(image):
    rows, columns = np.nonzero(image[..., 0] > 200)
    return rows.mean(), columns.mean()


def test_shear_and_rotation_at_seven():
    black = np.zeros((101, 101, 3), np.uint8)
    black[20:23, 49:52] = 255
    dot = Image.fromarray(black)
    row, column = _centre_of(_apply("ShearX", 7, 1, dot))
    assert row == pytest.approx(21, abs=0.6) and column == pytest.approx(50 - 0.21 * 21, abs=1.0)
    row, column = _centre_of(_apply("Rotate", 7, 1, dot))  # 21 degrees counter-clockwise about the centre
    angle = np.deg2rad(21)
    assert (row, column) == pytest.approx((50 - 29 * np.cos(angle), 50 - 29 * np.sin(angle)), abs=1.0)
    row, column = _centre_of(_apply("ShearY", 7, 1, dot))
    assert (row, column) == pytest.approx((21 - 0.21 * 50, 50), abs=1.0)


def test_drawing_follows_the_recipe():
    rng = np.random.default_rng(0)
    draws = [fa.RandAugment().draw(rng) for _ in range(5000)]
    drawn = [operation for draw in draws for operation in draw]
    assert len(drawn) == pytest.approx(10_000, abs=300)  # 4 draws, half of them applied
    names = Counter(name for name, _, _ in drawn)
    assert set(names) == set(fa.OPERATIONS) and max(names.values()) < 1.25 * min(names.values())
    strengths = np.asarray([m for _, m, _ in drawn])
    assert strengths.mean() == pytest.approx(7, abs=0.03) and strengths.std() == pytest.approx(0.5, abs=0.03)
    assert np.mean([sign for _, _, sign in drawn]) == pytest.approx(0, abs=0.04)
    assert any(len({name for name, _, _ in draw}) < len(draw) for draw in draws)  # with replacement


def test_all_frames_get_the_same():
    video = np.repeat(np.asarray(PICTURE)[None], 3, axis=0)
    out = fa.apply_operations(video, [("Rotate", 7.0, -1), ("Solarize", 6.0, 1)])
    assert (out == out[:1]).all() and (out != video).any()


def test_random_resized_crop_box():
    rng = np.random.default_rng(0)
    boxes = np.asarray([fa.random_resized_crop_box(240, 320, 0.25, rng) for _ in range(3000)])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 240).all() and (left + w <= 320).all()
    area, aspect = h * w / (240 * 320), w / h
    assert 0.24 < area.min() < 0.3 and 0.9 < area.max() <= 1.0
    assert aspect.min() == pytest.approx(0.75, abs=0.02) and aspect.max() == pytest.approx(1.3333, abs=0.02)
    assert fa.random_resized_crop_box(10, 1000, 0.99, rng) == (0, 493, 10, 13)  # never fits: central fallback


@pytest.mark.parametrize(("long_side", "offsets"), [(398, [0, 87, 174]), (224, [0, 0, 0])])
def test_crop_offsets(long_side, offsets):
    assert fa.crop_offsets(long_side, 224, 3) == offsets


@pytest.mark.parametrize("is_tall", [False, True])
def test_view_crops_of_a_240_by_427_video(is_tall):
    video = RNG.integers(0, 256, (1, 240, 427, 3), dtype=np.uint8)
    whole = fa.resize(video, 224, 398)
    if is_tall:
        video = video.transpose(0, 2, 1, 3)
    crops = [fa.ViewCrop(3)(video, 224, crop) for crop in range(3)]
    for crop, offset in zip(crops, (0, 87, 174), strict=True):
        crop = crop.transpose(0, 2, 1, 3) if is_tall else crop
        np.testing.assert_allclose(crop.astype(int), whole[:, :, offset : offset + 224].astype(int), atol=1)


def test_train_augment_flips_half_and_never_without():
    video = RNG.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    plain = fa.TrainAugment(None, min_area=1.0, flip=0.0)
    fixed = [plain(video, 32, np.random.default_rng(i)) for i in range(20)]
    mirrored = [fa.TrainAugment(None, 1.0, 0.5)(video, 32, np.random.default_rng(i)) for i in range(200)]
    assert all(out.shape == video.shape for out in fixed)
    same = [np.array_equal(out, plain(video, 32, np.random.default_rng(i))) for i, out in enumerate(mirrored)]
    assert 70 < sum(same) < 130
