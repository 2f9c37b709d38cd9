"""Video sets of tensorflow-datasets, as tfrecord and array_record, in every form a video has there; no TensorFlow."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import simplejpeg
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from sigma_jax.data import labelled, records, tfds_sets
from sigma_jax.data.clips import decode_record
from sigma_jax.data.loader import LoaderSpec, OnePass, open_loader
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.data.source import open_source
from sigma_jax.datasets import synthetic
from sigma_jax.datasets.classes import read_classes
from sigma_jax.tools import verify
from tests.data.loaders import training

FEATURES = "tensorflow_datasets.core.features."
BRIDGE = Path(os.environ.get("SIGMA_TFDS_SET", "/nowhere"))
CLASSES = ["run", "jump", "sit"]


def _feature(kind, **content):
    return {"pythonClassName": FEATURES + kind} | content


def _dict(**features):
    return _feature("features_dict.FeaturesDict", featuresDict={"features": features})


def _tensor(shape, dtype="uint8", encoding="none"):
    dimensions = {"dimensions": [str(side) for side in shape]} if shape else {}
    return _feature("tensor_feature.Tensor", tensor={"shape": dimensions, "dtype": dtype, "encoding": encoding})


IMAGE = _feature("image_feature.Image", image={"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"})
SIDE = (-1, 32, 32, 3)
# form -> (features.json entry, name and values in a record, of frames uint8 [F h w 3])
FORMS = {
    "video": (
        _feature("video_feature.Video", video={"shape": {"dimensions": ["-1", "32", "32", "3"]}, "dtype": "uint8"}),
        *("clip", "jpegs"),
    ),
    "images": (_feature("sequence_feature.Sequence", sequence={"feature": IMAGE}), "clip", "jpegs"),
    "steps": (
        _feature("dataset_feature.Dataset", sequence={"feature": _dict(action=_tensor((7,), "float32"), image=IMAGE)}),
        *("clip/image", "jpegs"),
    ),
    "pixels": (_tensor(SIDE), "clip", "integers"),
    "zlib": (_tensor(SIDE, encoding="zlib"), "clip", "zlib"),
    "bytes": (_tensor(SIDE, encoding="bytes"), "clip", "raw"),
    "file": (_tensor((), "string"), "clip", "file"),
}


def _payload(number, frames, name, stored, file):
    example = tf_example_pb2.Example()
    feature = example.features.feature
    if stored == "integers":
        feature[name].int64_list.value.extend(frames.ravel().tolist())
    else:
        values = {
            "jpegs": [simplejpeg.encode_jpeg(np.ascontiguousarray(f), 95, colorsubsampling="444") for f in frames],
            "zlib": [zlib.compress(frames.tobytes())],
            "raw": [frames.tobytes()],
            "file": [file],
        }
        feature[name].bytes_list.value.extend(values[stored])
    feature["kind"].int64_list.value.append(number % 3)
    feature["video_id"].bytes_list.value.append(b"v%d" % number)
    return example.SerializeToString()


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _write(folder: Path, container: str, payloads: list[bytes], feature: dict) -> Path:
    for shard in range(2):
        path = folder / f"toy-train.{container}-{shard:05d}-of-00002"
        if container == "array_record":
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for payload in payloads[shard::2]:
                writer.write(payload)
            writer.close()
            continue
        with path.open("wb") as file:
            for payload in payloads[shard::2]:
                length = struct.pack("<Q", len(payload))
                file.write(length + _masked(length) + payload + _masked(payload))
    label = _feature("class_label_feature.ClassLabel", classLabel={"numClasses": "3"})
    root = _dict(clip=feature, kind=label, video_id=_feature("text_feature.Text", text={}))
    (folder / "features.json").write_text(json.dumps(root))
    (folder / "kind.labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return folder


@pytest.fixture(scope="module")
def clips():
    return synthetic.render_clips(0, 0, 5)[0]


@pytest.fixture
def make(tmp_path, clips, clip_files):
    def write(form, container):
        feature, name, stored = FORMS[form]
        files = [path.read_bytes() for path in clip_files]
        payloads = [_payload(i, clip, name, stored, files[i]) for i, clip in enumerate(clips)]
        return _write(tmp_path, container, payloads, feature)

    return write


@pytest.mark.parametrize("container", ["tfrecord", "array_record"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_video_trains_as_it_is(make, clips, form, container):
    folder = make(form, container)
    source = open_source(folder, "train")
    found = [source[i] for i in range(5)]
    assert [record.key for record in found] == ["v0", "v2", "v4", "v1", "v3"]
    assert [(record.label, record.label_name) for record in found[:3]] == [(0, "run"), (2, "sit"), (1, "jump")]
    assert read_classes(folder).names == tuple(CLASSES)
    if form != "file":
        assert np.abs(decode_record(found[1], np.array([7, 0])).astype(int) - clips[2][[7, 0]]).mean() < 4
    settings = {"num_frames": 4, "frame_stride": 2, "image_size": 32, "crop": "none", "global_batch": 5, "seed": 0}
    loader = training(folder, num_workers=1 if form == "video" else 0, **settings)
    batch = next(loader)
    loader.close()
    assert sorted(batch["record"].tolist()) == [0, 1, 2, 3, 4]
    if form != "file":
        order = [0, 3, 1, 4, 2]  # record of clip i
        shown = batch["video"][np.argsort(batch["record"])][order]
        assert np.abs(shown.astype(int) - clips[:, ::2]).mean() < 4


def test_labelled_loaders_read_them(make):
    spec = labelled.LabelledSpec(FrameSampling("dense", 4, 2), 32, 3)
    (batch,) = open_loader(LoaderSpec(make("images", "array_record"), "train", spec, OnePass(), 5))
    assert batch["label"].tolist() == [0, 2, 1, 1, 0]


def test_damage_is_a_bad_record(make):
    folder = make("zlib", "tfrecord")
    reader = tfds_sets.find_reader(folder)
    example = tf_example_pb2.Example()
    values = example.features.feature["clip"].bytes_list.value
    for content, reason in (
        ([], "expected one value, got 0"),
        ([b"no zlib"], "not zlib data"),
        ([zlib.compress(b"x" * 3072)[:-5]], "truncated"),
        ([zlib.compress(b"x" * 3071)], "cannot reshape"),
    ):
        del values[:]
        values.extend(content)
        with pytest.raises(ValueError, match=reason):
            reader(example.SerializeToString())
    with pytest.raises(ValueError, match="expected a feature 'clip', found"):
        reader(tf_example_pb2.Example().SerializeToString())
    with pytest.raises(ValueError, match="not a tf.train.Example"):
        reader(b"\xff" * 9)
    shard = next(folder.glob("*.tfrecord-00000*"))
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(records.BadRecord, match="checksum"):
        open_source(folder, "train")[0]


def test_damaged_array_records_are_bad_records(make):
    folder = make("images", "array_record")
    shard = next(folder.glob("*.array_record-00000*"))
    data = bytearray(shard.read_bytes())
    used = np.flatnonzero(np.frombuffer(data, np.uint8))
    for place in used[len(used) // 2 :][:64]:
        data[place] ^= 0x55
    shard.write_bytes(data)
    source = open_source(folder, "train")
    outcomes = set()
    for index in range(len(source)):
        try:
            source[index]
            outcomes.add("good")
        except records.BadRecord as error:
            outcomes.add("bad")
            assert error.shard == shard.name
    assert outcomes == {"good", "bad"}
    with pytest.raises(IndexError):
        source[5]


def _verify(folder, capsys, *flags):
    code = verify.main([f"--data_dir={folder}", "--workers=0", *flags])
    return code, "".join(capsys.readouterr())


@pytest.mark.parametrize("container", ["tfrecord", "array_record"])
@pytest.mark.parametrize("form", ["images", "zlib", "file"])
def test_verify_reads_and_decodes_them(make, form, container, capsys):
    folder = make(form, container)
    code, printed = _verify(folder, capsys)
    assert code == 0 and "all is well" in printed
    assert "train: 5 good of 5 records in 2 shards" in printed
    assert "classes: 3, without a class: 0; decoded to the end: 5" in printed


def test_verify_finds_what_is_wrong_with_array_records(make, clips, capsys, tmp_path):
    folder = make("images", "array_record")
    split = {"name": "train", "shardLengths": ["3", "3"]}
    (folder / "dataset_info.json").write_text(json.dumps({"splits": [split]}))
    code, printed = _verify(folder, capsys)
    assert code == 1 and "dataset_info.json promises 6 records of 'train' in 2 shards, there are 5" in printed
    split["shardLengths"] = ["3", "2"]
    (folder / "dataset_info.json").write_text(json.dumps({"splits": [split]}))
    assert _verify(folder, capsys)[0] == 0

    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["kind"]["classLabel"]["numClasses"] = "2"
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "kind.labels.txt").unlink()  # the number in features.json remains
    code, printed = _verify(folder, capsys)
    assert code == 1 and "4 good of 5" in printed and "(v2): label 2, there are 2 classes" in printed

    shard = next(folder.glob("*.array_record-00001*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    code, printed = _verify(folder, capsys)
    assert code == 1 and "do not open" in printed


def test_verify_names_pictures_that_do_not_decode(clips, capsys, tmp_path):
    feature, name, stored = FORMS["images"]
    example = tf_example_pb2.Example.FromString(_payload(0, clips[0], name, stored, b""))
    example.features.feature[name].bytes_list.value[3] = b"no picture"
    folder = _write(
        tmp_path, "array_record", [example.SerializeToString(), _payload(1, clips[1], name, stored, b"")], feature
    )
    code, printed = _verify(folder, capsys)
    assert code == 1 and "1 good of 2 records" in printed and "record 0 (v0): frame 3" in printed


def test_what_is_missing_is_named(make, tmp_path):
    folder = make("video", "array_record")
    with pytest.raises(records.DataSetError, match="no split 'val', only .'train'."):
        open_source(folder, "val")
    (folder / "features.json").write_text(json.dumps(_dict(x=_tensor((3,), "float32"))))
    with pytest.raises(records.DataSetError, match="has no video .*'x': 'Tensor'"):
        open_source(folder, "train")
    (folder / "features.json").unlink()
    with pytest.raises(records.DataSetError, match="no features.json"):
        open_source(folder, "train")
    next(folder.glob("*00001-of*")).unlink()
    with pytest.raises(records.DataSetError, match="found 1 array_record files of 'train', expected 00002"):
        open_source(folder, "train")


def test_sets_that_tensorflow_datasets_itself_wrote(tmp_path, clips):
    import cv2
    import tensorflow_datasets as tfds

    class Toy(tfds.core.GeneratorBasedBuilder):
        __module__ = "__main__"  # a builder inside a package needs more packages
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            images = tfds.features.Sequence(tfds.features.Image(shape=(32, 32, 3)))
            features = {"frames": images, "label": tfds.features.ClassLabel(names=CLASSES)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, clip in enumerate(clips):
                yield i, {"frames": [io.BytesIO(cv2.imencode(".png", f[..., ::-1])[1]) for f in clip], "label": i % 3}

    builder = Toy(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    folder = Path(builder.data_dir)
    source, expected = open_source(folder, "train"), builder.as_data_source("train")
    assert len(source) == len(expected) == 5 and read_classes(folder).names == tuple(CLASSES)
    payload = builder.as_data_source("train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)[3]
    decoded = builder.info.features.deserialize_example_np(payload)
    for index in range(5):
        video = decode_record(source[index], np.arange(8))
        np.testing.assert_array_equal(video, np.stack(list(expected[index]["frames"])))
        assert source[index].label == expected[index]["label"]
    np.testing.assert_array_equal(decode_record(source[3], np.arange(8)), np.stack(list(decoded["frames"])))


def test_our_own_shards_keep_their_reader(shards):
    from sigma_jax.data import metadata

    metadata.write_metadata(shards, "toy", "train", [12, 11], 1)
    assert tfds_sets.find_reader(shards) is None
    assert open_source(shards, "train")[0].num_frames == 8


@pytest.mark.skipif(not BRIDGE.is_dir(), reason="SIGMA_TFDS_SET names no folder of a tfrecord set with features.json")
def test_a_real_set():
    source = open_source(BRIDGE, "train")
    record = source[0]
    video = decode_record(record, np.array([0, len(record.frames) - 1]))
    assert len(source) and video.shape[0] == 2 and video.std() > 10
