"""Crops cut out of JPEGs are the crops of the decoded pictures, to the last bit; what cannot be cut is read whole."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sigma_jax.data import augment, clips, decode, jpeg_crop, pictures
from sigma_jax.datasets import payload

CLIP = Path(__file__).parent / "clips" / "scene" / "fruit_conveyor.mp4"  # 60 frames of 240 x 426


@pytest.fixture(scope="module")
def frames():
    return decode.decode_frames(CLIP.read_bytes(), np.array([0, 30, 59]))


@pytest.fixture(autouse=True)
def cut_small_ones_too(monkeypatch):
    monkeypatch.setattr(jpeg_crop, "MIN_PIXELS", 0)


def _encoded(frames, interval=2, subsampling="4:2:0", **options) -> list[bytes]:
    files = [io.BytesIO() for _ in frames]
    for file, frame in zip(files, frames, strict=True):
        Image.fromarray(frame).save(
            file, "JPEG", quality=90, subsampling=subsampling, restart_marker_blocks=interval, **options
        )
    return [file.getvalue() for file in files]


def _boxes(height: int, width: int) -> list[jpeg_crop.Box]:
    rng = np.random.default_rng(0)
    boxes = [augment.multi_scale_crop_box(height, width, 224, rng) for _ in range(10)]
    for _ in range(30):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        boxes.append((top, left, int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))))
    corners = [(0, 0, 1, 1), (height - 1, width - 1, 1, 1), (15, 15, 2, 2), (16, 32, 16, 32), (0, 0, height, width)]
    return boxes + corners


@pytest.mark.parametrize(
    ("size", "interval", "subsampling"),
    [
        ((240, 426), 1, "4:2:0"),  # 27 blocks a row
        ((256, 340), 2, "4:2:0"),
        ((239, 321), 3, "4:2:0"),  # odd sides
        ((97, 64), 2, "4:4:4"),  # blocks of 8 x 8
        ((120, 200), 13, "4:2:2"),  # a segment a row
    ],
)
def test_a_cut_is_the_crop(frames, size, interval, subsampling):
    images = _encoded(augment.resize(frames, *size), interval, subsampling)
    whole = pictures.decode_images(images)
    for box in _boxes(*size):
        parts, _ = jpeg_crop.cut(images, box)
        assert sum(map(len, parts)) <= sum(map(len, images))
        top, left, height, width = box
        cut = pictures.decode_images(images, lambda h, w, box=box: box)
        np.testing.assert_array_equal(cut, whole[:, top : top + height, left : left + width], err_msg=str(box))


def test_a_small_box_decodes_little(frames):
    images = _encoded(frames, jpeg_crop.restart_interval(426))
    parts, place = jpeg_crop.cut(images, (100, 200, 40, 60))
    assert Image.open(io.BytesIO(parts[0])).size == (80, 48) and place == (4, 8)  # whole blocks, one pixel more
    assert sum(map(len, parts)) < 0.2 * sum(map(len, images))


def test_small_pictures_are_decoded_whole(frames, monkeypatch):
    images = _encoded(frames, 1)
    assert jpeg_crop.cut(images, (100, 200, 40, 60)) is not None
    monkeypatch.setattr(jpeg_crop, "MIN_PIXELS", 240 * 426 + 1)
    assert jpeg_crop.cut(images, (100, 200, 40, 60)) is None


def test_what_cannot_be_cut_is_decoded_whole(frames):
    box = (20, 30, 100, 90)
    grey = [_encoded(frames[:1, ..., 0])[0]]
    other = _encoded(frames)[:2] + _encoded(frames, 1)[2:]
    for images in (_encoded(frames, 0), _encoded(frames, 4), _encoded(frames, progressive=True), grey, other):
        assert jpeg_crop.cut(images, box) is None
        whole = pictures.decode_images(images)
        cut = pictures.decode_images(images, lambda h, w: box)
        np.testing.assert_array_equal(cut, whole[:, 20:120, 30:120])
    png = io.BytesIO()
    Image.fromarray(frames[0]).save(png, "PNG")
    cut = pictures.decode_images([png.getvalue()], lambda h, w: (1, 2, 3, 4))
    np.testing.assert_array_equal(cut[0], frames[0, 1:4, 2:6])


def test_damage_is_left_to_the_decoder(frames):
    images, box = _encoded(frames, 1), (20, 30, 100, 90)
    at = images[1].index(b"\xff\xd5")
    for damaged in (images[1][:at] + images[1][at + 2 :], images[1][: at + 1] + b"\xd3" + images[1][at + 2 :]):
        assert jpeg_crop.cut([images[0], damaged], box) is None
    for broken in (images[1][: len(images[1]) // 2], b"\xff\xd8\xff", b""):
        with pytest.raises(decode.BadVideo):
            pictures.decode_images([images[0], broken], lambda h, w: box)
    with pytest.raises(decode.BadVideo, match="frame 0 is no picture"):
        pictures.decode_images([images[0][:100]], lambda h, w: box)


class Records(list):
    """A source of a few records without class names."""

    classes = ()


def test_training_from_prepared_jpegs_decodes_only_the_crop(monkeypatch):
    record, _ = payload.store(CLIP.read_bytes(), payload.Payload("jpeg"))
    spec, taken, cut = clips.ClipSpec(4, 2, 64, "multi_scale"), [], jpeg_crop.cut
    reader = clips.ClipReader(Records([record]), spec, cache_decoded=False)
    monkeypatch.setattr(jpeg_crop, "cut", lambda *args: taken.append(cut(*args)) or taken[-1])
    here = reader.read(0, np.random.default_rng(3)).video
    assert taken[0] is not None
    monkeypatch.setattr(jpeg_crop, "cut", lambda *args: None)
    np.testing.assert_array_equal(here, reader.read(0, np.random.default_rng(3)).video)
    cached = clips.ClipReader(Records([record]), spec, cache_decoded=True)
    np.testing.assert_array_equal(here, cached.read(0, np.random.default_rng(3)).video)
    choose_box = partial(augment.multi_scale_crop_box, size=64, rng=np.random.default_rng(0))
    assert clips.decode_record(record, np.array([7, 7]), choose_box=choose_box).shape[0] == 2
