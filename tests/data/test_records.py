"""Records survive the round trip; everything that can be wrong with shards is said, with the shard and the record."""

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from sigma_jax.data import metadata, records
from sigma_jax.data.records import BadRecord, DataSetError, Record, RecordSource

ROOT = Path(__file__).parents[2]
RECORDS = [Record(os.urandom(n), f"class/{n}.mp4", n % 3 - 1, f"name {n}", n, n + 1, n + 2, 12.5) for n in range(1, 12)]


@pytest.fixture
def data_dir(tmp_path):
    for shard in range(3):
        with records.ShardWriter(tmp_path / records.shard_name("my_set", "train", shard, 3)) as writer:
            for record in RECORDS[4 * shard : 4 * shard + 4]:
                writer.write(record)
    return tmp_path


def _shard(data_dir, number=1):
    return data_dir / f"my_set-train-{number:05d}-of-00003.tfrecord"


def _flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_round_trip_over_threads_and_processes(data_dir):
    source = RecordSource(data_dir, "train")
    assert len(source) == 11
    assert source[5] == RECORDS[5]  # opens a file, which must not travel
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy.__getitem__, list(range(11)) * 20)) == RECORDS * 20
    with pytest.raises(IndexError):
        source[11]


def test_framing_is_tfrecord(data_dir):
    data = _shard(data_dir, 0).read_bytes()
    length = int.from_bytes(data[:8], "little")

    def masked(crc):
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32

    assert int.from_bytes(data[8:12], "little") == masked(google_crc32c.value(data[:8]))
    assert int.from_bytes(data[12 + length : 16 + length], "little") == masked(
        google_crc32c.value(data[12 : 12 + length])
    )
    assert records.decode_record(data[12 : 12 + length]) == RECORDS[0]


def test_reading_a_record_reads_only_that_record(data_dir, monkeypatch):
    source, pread, total = RecordSource(data_dir, "train"), os.pread, []
    monkeypatch.setattr(os, "pread", lambda *args: total.append(args[1]) or pread(*args))
    source[6]
    assert sum(total) < _shard(data_dir).stat().st_size / 2


def test_non_utf8_names_survive():
    record = Record(b"x", os.fsdecode(b"caf\xe9.mp4"))
    assert records.decode_record(records.encode_record(record)) == record


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), records.ShardWriter(tmp_path / "a.tfrecord") as writer:
        writer.write(RECORDS[0])
        assert not (tmp_path / "a.tfrecord").exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("offset", "reason"), [(3, "corrupt length"), (9, "corrupt length"), (-20, "corrupt payload")])
def test_corrupt_records_are_named(data_dir, offset, reason):
    source = RecordSource(data_dir, "train")
    start = int(source._offsets[7]) if offset >= 0 else _shard(data_dir).stat().st_size
    _flip(_shard(data_dir), start + offset)
    assert source[6] == RECORDS[6]
    with pytest.raises(BadRecord, match=f"{_shard(data_dir).name}, record 3: {reason}") as error:
        source[7]
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_truncation_after_opening_is_a_bad_record(data_dir):
    source = RecordSource(data_dir, "train")
    os.truncate(_shard(data_dir), _shard(data_dir).stat().st_size - 5)
    with pytest.raises(BadRecord, match="record 3: truncated"):
        source[7]


@pytest.mark.parametrize(
    ("payload", "reason"), [(b"\xff\xff", "not a tf.train.Example"), (b"", "feature 'video', found features")]
)
def test_foreign_payloads_are_named(tmp_path, monkeypatch, payload, reason):
    monkeypatch.setattr(records, "encode_record", lambda _: payload)
    with records.ShardWriter(tmp_path / records.shard_name("a", "train", 0, 1)) as writer:
        writer.write(RECORDS[0])
    with pytest.raises(BadRecord, match=reason):
        RecordSource(tmp_path, "train")[0]


def test_wrong_kind_of_feature():
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(records.encode_record(RECORDS[0]))
    example.features.feature["label"].bytes_list.value.append(b"cat")
    with pytest.raises(ValueError, match="one value of int64_list in feature 'label'"):
        records.decode_record(example.SerializeToString())


def test_index_is_built_once_and_verified_by_size(data_dir, monkeypatch):
    RecordSource(data_dir, "train")
    monkeypatch.setattr(records, "scan_offsets", lambda _: pytest.fail("scanned again"))
    RecordSource(data_dir, "train")
    shutil.copy(_shard(data_dir, 0), _shard(data_dir, 1))
    with pytest.raises(DataSetError, match="its index says .* delete .*my_set-train.index.npz"):
        RecordSource(data_dir, "train")


def test_a_damaged_index_is_said(data_dir):
    RecordSource(data_dir, "train")
    path = data_dir / "my_set-train.index.npz"
    good = path.read_bytes()
    for content in (b"", good[:100], good[: len(good) // 2], b"no index", good.replace(b"counts", b"c0unts")):
        path.write_bytes(content)
        with pytest.raises(DataSetError, match="my_set-train.index.npz is damaged .*: delete it"):
            RecordSource(data_dir, "train")


def test_an_index_that_cannot_be_kept_is_made_at_every_start(data_dir, monkeypatch, caplog):
    def no_room(partial, path):
        raise OSError(30, "Read-only file system", str(partial))

    monkeypatch.setattr(records, "_save_index", no_room)
    source = RecordSource(data_dir, "train")
    assert [source[i] for i in range(11)] == RECORDS and not list(data_dir.glob("*.npz"))
    assert "built again at every start" in caplog.text and "Read-only" in caplog.text


def test_an_open_source_dies_quietly_with_the_interpreter(data_dir):
    code = "import sys\nfrom sigma_jax.data.records import RecordSource\ns = RecordSource(sys.argv[1], 'train')\ns[0]"
    done = subprocess.run([sys.executable, "-c", code, data_dir], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_shard_cannot_be_indexed(data_dir):
    os.truncate(_shard(data_dir), _shard(data_dir).stat().st_size - 5)
    with pytest.raises(DataSetError, match="00001-of-00003.tfrecord, record 3: truncated"):
        RecordSource(data_dir, "train")
    os.truncate(_shard(data_dir), int(records.scan_offsets(_shard(data_dir, 0))[0]) + 6)
    with pytest.raises(DataSetError, match="record 0: truncated"):
        RecordSource(data_dir, "train")
    _flip(_shard(data_dir, 0), 8)
    with pytest.raises(DataSetError, match="00000-of-00003.tfrecord, record 0: corrupt length"):
        RecordSource(data_dir, "train")


def test_incomplete_sets_say_what_is_there_and_what_to_run(data_dir, tmp_path):
    run = "python -m sigma_jax.tools.prepare"
    with pytest.raises(DataSetError, match=f"nowhere does not exist.*{run}"):
        RecordSource(data_dir / "nowhere", "train")
    with pytest.raises(DataSetError, match=f"no split 'val', only .'train'.*{run}"):
        RecordSource(data_dir, "val")
    _shard(data_dir, 2).rename(data_dir / "elsewhere")
    with pytest.raises(DataSetError, match=r"2 of 3 shards of my_set-train-\*-of-00003, missing \[2\].*" + run):
        RecordSource(data_dir, "train")
    (data_dir / "elsewhere").rename(data_dir / "my_set-train-00002-of-00004.tfrecord")
    with pytest.raises(DataSetError, match="mixes shard sets"):
        RecordSource(data_dir, "train")
    for path in data_dir.glob("*.tfrecord"):
        path.unlink()
    with pytest.raises(DataSetError, match=f"holds no shards.*{run}"):
        RecordSource(data_dir, "train")


def test_tfds_opens_our_shards(data_dir):
    import tensorflow_datasets as tfds

    sizes = [_shard(data_dir, i).stat().st_size for i in range(3)]
    metadata.write_metadata(data_dir, "my_set", "train", [4, 4, 3], sum(sizes))
    builder = tfds.builder_from_directory(data_dir)
    split = builder.info.splits["train"]
    assert [os.path.basename(path) for path in split.filepaths] == [_shard(data_dir, i).name for i in range(3)]
    assert split.num_examples == 11
    example = builder.info.features.deserialize_example_np(records.encode_record(RECORDS[3]))
    assert example["video"] == RECORDS[3].video and example["key"].decode() == RECORDS[3].key
    assert (example["label"], example["num_frames"]) == (RECORDS[3].label, RECORDS[3].num_frames)
    np.testing.assert_allclose(example["fps"], 12.5)
