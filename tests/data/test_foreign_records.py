"""Shards of other writers: DMVR / Scenic sequences under their names, readable by number and fit for training."""

import os
import struct
import threading
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import simplejpeg
from tensorflow_datasets.proto import tf_example_pb2

from sigma_jax.data import records
from sigma_jax.datasets import synthetic
from tests.data.loaders import training

NAMES = ("train-{:05d}-of-00002", "hmdb51-train.tfrecord-{:05d}-of-00002", "k400_train.rgb.tfrecord-{:05d}-of-00002")


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _sequence(number: int, frames: np.ndarray) -> bytes:
    example = tf_example_pb2.SequenceExample()
    context, steps = example.context.feature, example.feature_lists.feature_list["image/encoded"]
    context["clip/label/index"].int64_list.value.append(number)
    context["clip/label/text"].bytes_list.value.append(f"class {number}".encode())
    context["clip/media_id"].bytes_list.value.append(f"video {number}".encode())
    for frame in frames:
        steps.feature.add().bytes_list.value.append(simplejpeg.encode_jpeg(np.ascontiguousarray(frame), 95))
    return example.SerializeToString()


def _write(folder: Path, pattern: str, payloads: list[bytes]) -> None:
    for shard in range(2):
        with (folder / pattern.format(shard)).open("wb") as file:
            for payload in payloads[shard::2]:
                length = struct.pack("<Q", len(payload))
                file.write(length + _masked(length) + payload + _masked(payload))


@pytest.fixture(scope="module")
def clips():
    return synthetic.render_clips(0, 0, 5)[0]


@pytest.mark.parametrize("pattern", NAMES)
def test_dmvr_shards_train_as_they_are(tmp_path, clips, pattern):
    _write(tmp_path, pattern, [_sequence(i, clip) for i, clip in enumerate(clips)])
    source = records.RecordSource(tmp_path, "train")
    found = [source[i] for i in range(5)]
    assert [record.label for record in found] == [0, 2, 4, 1, 3]
    assert (found[1].key, found[1].label_name, found[1].num_frames) == ("video 2", "class 2", 8)
    settings = {"num_frames": 4, "frame_stride": 2, "image_size": 32, "crop": "none", "global_batch": 5, "seed": 0}
    loader = training(tmp_path, **settings)
    batch = next(loader)
    loader.close()
    order = np.argsort(batch["label"])
    error = np.abs(batch["video"][order].astype(int) - clips[:, ::2])
    assert error.mean() < 4 and batch["label"][order].tolist() == [0, 1, 2, 3, 4]


def test_random_access_reads_one_record(tmp_path, clips, monkeypatch):
    payloads = [_sequence(i, clip) for i, clip in enumerate(clips)]
    _write(tmp_path, NAMES[0], payloads)
    source, pread, total = records.RecordSource(tmp_path, "train"), os.pread, []
    here = threading.get_ident()  # loaders of other tests may still read ahead in their threads

    def counted(*args):
        if threading.get_ident() == here:
            total.append(args[1])
        return pread(*args)

    monkeypatch.setattr(os, "pread", counted)
    assert source[1].key == "video 2"
    assert 0 < sum(total) <= len(payloads[2]) + 16 + 2**13 + 12


def test_sequences_that_are_not_videos_are_named(tmp_path):
    empty = tf_example_pb2.SequenceExample()
    empty.feature_lists.feature_list["image/encoded"].feature.add()
    other = tf_example_pb2.SequenceExample()
    other.feature_lists.feature_list["audio"].feature.add()
    _write(tmp_path, NAMES[0], [empty.SerializeToString(), other.SerializeToString()])
    source = records.RecordSource(tmp_path, "train")
    with pytest.raises(records.BadRecord, match="record 0: expected one value of bytes_list in feature 'image'"):
        source[0]
    with pytest.raises(records.BadRecord, match="expected a feature list 'image/encoded', found .'audio'."):
        source[1]


def test_shards_written_by_tfds_train_as_they_are(tmp_path, clips):
    payloads = []
    for number, clip in enumerate(clips):
        example = tf_example_pb2.Example()
        features = example.features.feature
        features["steps/action"].float_list.value.extend([0.5] * 8)
        features["steps/language"].bytes_list.value.extend([b"push"] * 8)
        for camera in "01":
            images = [simplejpeg.encode_jpeg(np.ascontiguousarray(frame), 95) for frame in clip]
            features[f"steps/observation/image_{camera}"].bytes_list.value.extend(
                images if camera == "0" else images[:1]
            )
        features["label"].int64_list.value.append(number)
        payloads.append(example.SerializeToString())
    _write(tmp_path, "bridge_dataset-train.tfrecord-{:05d}-of-00002", payloads)
    settings = {"num_frames": 4, "frame_stride": 2, "image_size": 32, "crop": "none", "global_batch": 5, "seed": 0}
    loader = training(tmp_path, **settings)
    batch = next(loader)
    loader.close()
    order = np.argsort(batch["label"])
    assert np.abs(batch["video"][order].astype(int) - clips[:, ::2]).mean() < 4
    assert batch["label"][order].tolist() == [0, 1, 2, 3, 4]
