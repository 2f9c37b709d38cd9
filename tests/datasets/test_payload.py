"""Payloads keep the frames; a `jpeg` record gives a few of them without being read whole; damage is found."""

import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from sigma_jax.data import augment, clips, decode, metadata, pictures, records, schema
from sigma_jax.datasets import frame_folders, payload
from sigma_jax.datasets.payload import Payload
from tests.data.loaders import training

DATA = Path(__file__).parents[1] / "data"
CLIP = DATA / "clips" / "scene" / "fruit_conveyor.mp4"  # 60 frames of 240 x 426
INDICES = np.array([40, 3, 17, 17])


def _stored(kind, **settings):
    return payload.store(CLIP.read_bytes(), Payload(kind, **settings))[0]


@pytest.mark.parametrize(("kind", "error"), [("video", 0), ("video-small", 4), ("jpeg", 2.5)])
def test_frames_keep_their_numbers(kind, error):
    record = _stored(kind, short_side=120)
    decoded = clips.decode_record(record, INDICES, record.num_frames)
    original = decode.decode_frames(CLIP.read_bytes(), INDICES)
    expected = original if kind == "video" else np.stack([augment.resize(f[None], 120, 213)[0] for f in original])
    expected = expected[:, :, : decoded.shape[2]]  # 4:2:0 video needs even sides
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() <= error
    assert (record.num_frames, record.height, record.width) == (60, *expected.shape[1:3])
    np.testing.assert_allclose(record.fps, 15)


def test_small_payloads_are_upright_and_never_enlarged():
    data = (DATA / "odd" / "nasa_13013_rotated.mp4").read_bytes()
    expected = decode.decode_frames(data, np.array([5]))
    for kind in ("video-small", "jpeg"):
        record, info = payload.store(data, Payload(kind, short_side=1000))
        assert (record.height, record.width) == (info.height, info.width) == expected.shape[1:3] == (480, 270)
        assert np.abs(clips.decode_record(record, np.array([5])).astype(int) - expected).mean() < 4


def test_equal_settings_give_equal_bytes_and_others_do_not():
    assert _stored("video-small").video == _stored("video-small").video
    assert _stored("jpeg", quality=60).frames != _stored("jpeg").frames
    assert sum(map(len, _stored("jpeg", quality=60).frames)) < 0.7 * sum(map(len, _stored("jpeg").frames))
    for settings in ({"kind": "avi"}, {"quality": 0}, {"short_side": 8}):
        with pytest.raises(ValueError, match="expected"):
            Payload(**settings)


def test_folders_of_pictures(tmp_path):
    frames = decode.decode_frames(CLIP.read_bytes(), np.arange(4))
    files = [simplejpeg.encode_jpeg(frame, 80) for frame in frames]
    for number, data in zip((2, 10, 9, 1), files, strict=True):
        (tmp_path / f"img_{number:05d}.jpg").write_bytes(data)
    (tmp_path / "notes.txt").touch()
    paths, warning = frame_folders.choose_frames(tmp_path)
    assert warning == "no pictures with the numbers 3..8"
    assert [path.stem[-2:] for path in paths] == ["01", "02", "09", "10"]
    assert payload.store_frames(paths, Payload("jpeg")).frames == (files[3], files[0], files[2], files[1])
    assert payload.store_frames(paths[:1], Payload("jpeg", short_side=100)).height == 100
    assert [path.stem[-2:] for path in frame_folders.choose_frames(tmp_path, 2, 2)[0]] == ["02", "09"]
    with pytest.raises(decode.BadVideo, match="2 pictures from number 9 on, the list says 3"):
        frame_folders.choose_frames(tmp_path, 9, 3)
    with pytest.raises(decode.BadVideo, match="needs --payload=jpeg"):
        payload.store_frames(paths, Payload())
    (tmp_path / "img_00009.jpg").write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(frames[0][:100])))
    with pytest.raises(decode.BadVideo, match="frame 2 is 426x100"):
        payload.store_frames(paths, Payload("jpeg"))
    (tmp_path / "img_00009.jpg").write_bytes(files[0][:20])
    with pytest.raises(decode.BadVideo, match=r"^img_00009\.jpg: is no picture"):
        payload.store_frames(paths, Payload("jpeg"))


@pytest.fixture
def jpeg_set(tmp_path):
    record = _stored("jpeg", short_side=120)
    odd = replace(record, key="second", num_frames=2, frames=record.frames[:2])
    with records.ShardWriter(tmp_path / records.shard_name("toy", "train", 0, 1)) as writer:
        for number, item in enumerate((record, odd, record)):
            writer.write(replace(item, key=item.key or "whole", label=number, label_name=f"class {number}"))
    return tmp_path


def test_records_with_frames_survive_every_way_of_reading(jpeg_set):
    source = records.RecordSource(jpeg_set, "train")
    original = _stored("jpeg", short_side=120).frames
    for index in range(3):
        lazy, whole = source[index], source.read_whole(index)
        assert tuple(lazy.frames) == whole.frames == (original[:2] if index == 1 else original)
        assert replace(lazy, frames=()) == replace(whole, frames=())
        assert schema.decode_record(schema.encode_record(whole)) == whole
    assert (source[1].key, source[1].label, source[1].num_frames) == ("second", 1, 2)


def test_a_clip_reads_only_its_frames(jpeg_set, monkeypatch):
    source, pread, total = records.RecordSource(jpeg_set, "train"), os.pread, []
    monkeypatch.setattr(os, "pread", lambda *args: (total.append(len(pread(*args))), pread(*args))[1])
    record = source[2]
    video = clips.decode_record(record, np.array([50, 30]))
    assert sum(total) < 2**13 + 12 + len(record.frames[50]) + len(record.frames[30]) + 1
    assert sum(total) < 0.3 * source.shards[0].stat().st_size / 2
    np.testing.assert_array_equal(video[0], simplejpeg.decode_jpeg(source.read_whole(2).frames[50]))


def test_every_flipped_byte_is_found(jpeg_set):
    shard = next(jpeg_set.glob("*.tfrecord"))
    start, end = (int(x) for x in records.scan_offsets(shard)[1:3])
    good, rng = shard.read_bytes(), np.random.default_rng(0)
    records.RecordSource(jpeg_set, "train")  # builds the index
    positions = [*range(start, start + 60, 7), *rng.integers(start, end - 4, size=40)]
    for position in positions:
        data = bytearray(good)
        data[position] ^= 1 << rng.integers(8)
        shard.write_bytes(data)
        source = records.RecordSource(jpeg_set, "train")
        assert source[0].key == "whole"
        try:
            frames = tuple(source[1].frames)
        except records.BadRecord as error:
            assert error.record == 1
        else:  # framing between frames: nothing that a clip uses
            assert frames == _frames_of(good, jpeg_set)
        with pytest.raises(records.BadRecord, match="record 1"):
            source.read_whole(1)


def _frames_of(good: bytes, folder: Path) -> tuple[bytes, ...]:
    shard = next(folder.glob("*.tfrecord"))
    damaged = shard.read_bytes()
    shard.write_bytes(good)
    frames = records.RecordSource(folder, "train").read_whole(1).frames
    shard.write_bytes(damaged)
    return frames


def test_training_from_jpegs_resumes_on_other_workers(jpeg_set):
    settings = {"num_frames": 4, "frame_stride": 2, "image_size": 64, "global_batch": 3, "seed": 1}
    straight = training(jpeg_set, **settings)
    batches = [next(straight) for _ in range(3)]
    straight.close()
    resumed = training(jpeg_set, num_workers=1, **settings)
    resumed.restore({"next_batch": 1})
    for batch in batches[1:]:
        again = next(resumed)
        for name in batch:
            np.testing.assert_array_equal(batch[name], again[name])
    resumed.close()


def test_damaged_pictures_are_bad_videos():
    good = _stored("jpeg", short_side=64).frames[0]
    for images, reason in (
        ([b""], "frame 0 is no picture"),
        ([good, good[: len(good) // 2]], "frame 1 is damaged"),
        ([b"\xff\xd8\xff\xff"], "frame 0 is no picture"),
        ([], "no frames"),
    ):
        with pytest.raises(decode.BadVideo, match=reason):
            pictures.decode_images(images)
    huge = bytearray(good)
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = b"\xfd\xe8\xfd\xe8"
    with pytest.raises(decode.BadVideo, match="claims 65000 x 65000"):
        pictures.decode_images([bytes(huge)])


def _png(width: int, height: int) -> bytes:
    """A small PNG that claims so many pixels."""
    chunks = [
        b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(b"\0" * 64),
        b"IEND",
    ]
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize("side", [2**13 + 1, 2**15, 2**16 - 1])
def test_pictures_that_claim_too_much_are_refused_before_decoding(side, monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    bomb = _png(side, side)
    for decode_bomb in (lambda: pictures.decode_images([bomb]), lambda: pictures.decode_image(bomb)):
        with pytest.raises(decode.BadVideo, match=f"claims {side} x {side} pixels|exceeds limit"):
            decode_bomb()
    (tmp_path / "1.png").write_bytes(bomb)
    with pytest.raises(decode.BadVideo):
        payload.store_frames([tmp_path / "1.png"], Payload("jpeg"))


@pytest.mark.parametrize("failure", [cv2.error("x"), MemoryError(), OverflowError("x"), Image.DecompressionBombError()])
def test_whatever_a_decoder_raises_is_a_bad_video(failure, monkeypatch):
    def fail(*_, **__):
        raise failure

    frame = _stored("jpeg", short_side=64).frames[0]
    monkeypatch.setattr(cv2, "imdecode", fail)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    monkeypatch.setattr(Image.Image, "convert", fail)
    for images in ([frame], [_png(4, 4)]):
        with pytest.raises(decode.BadVideo, match="frame 0 is damaged: ."):
            pictures.decode_images(images)
    with pytest.raises(decode.BadVideo, match="not readable as an image: ."):
        pictures.decode_image(frame)


def test_tfds_opens_jpeg_shards(jpeg_set):
    import tensorflow_datasets as tfds

    size = next(jpeg_set.glob("*.tfrecord")).stat().st_size
    metadata.write_metadata(jpeg_set, "toy", "train", [3], size, "jpeg")
    builder = tfds.builder_from_directory(jpeg_set)
    assert builder.info.splits["train"].num_examples == 3
    record = records.RecordSource(jpeg_set, "train").read_whole(1)
    example = builder.info.features.deserialize_example_np(schema.encode_record(record))
    assert list(example["frames"]) == list(record.frames) and example["label"] == 1
