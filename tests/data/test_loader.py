"""Batch i depends on (seed, i) only: not on workers, hosts, chunks, or where the run was interrupted."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from sigma_jax.data import clips, decode, records, time_limit
from sigma_jax.data import loader as loaders
from sigma_jax.data.bad_records import BadRecords
from sigma_jax.data.decoders import Decoding
from tests.data.conftest import NUM_CLIPS
from tests.data.loaders import measuring, training


def _loader(data_dir, **changes):
    return training(data_dir, **{"global_batch": 6, **changes})


def _take(loader, count):
    try:
        return [next(loader) for _ in range(count)]
    finally:
        loader.close()


def _assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_batches_have_the_promised_form_and_epochs_are_permutations(shards):
    batches = _take(_loader(shards), 3 * NUM_CLIPS)  # 6 * 23 * 3 places: 18 epochs
    video, label, record = (batches[0][name] for name in ("video", "label", "record"))
    assert (video.shape, video.dtype) == ((6, 4, 16, 16, 3), np.uint8)
    assert (label.dtype, record.dtype) == (np.int32, np.int64)
    epochs = np.concatenate([batch["record"] for batch in batches]).reshape(18, NUM_CLIPS)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(NUM_CLIPS), (18, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 18
    source = records.RecordSource(shards, "train")
    for batch in batches[:5]:
        assert [source[i].label for i in batch["record"]] == batch["label"].tolist()
    assert -1 in np.concatenate([batch["label"] for batch in batches])


def test_the_seed_decides(shards):
    first = _take(_loader(shards), 2)
    _assert_same(first, _take(_loader(shards), 2))
    assert (first[0]["record"] != _take(_loader(shards, seed=6), 1)[0]["record"]).any()


def test_a_record_gets_another_crop_in_another_epoch(shards):
    batches = _take(_loader(shards, global_batch=NUM_CLIPS), 2)
    first, second = (batch["video"][np.argsort(batch["record"])] for batch in batches)
    assert (first != second).any(axis=(1, 2, 3, 4)).mean() > 0.8


def test_workers_hosts_chunks_and_resuming_change_nothing(shards, monkeypatch):
    straight = _take(_loader(shards), 9)
    _assert_same(straight, _take(_loader(shards, num_workers=2), 9))
    parts = [_take(_loader(shards, process_index=host, process_count=2), 9) for host in range(2)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    _assert_same(straight, joined)
    monkeypatch.setattr(loaders, "_CHUNK_BYTES", 2 * 4 * 16 * 16 * 3)
    small = _loader(shards)
    first = [next(small) for _ in range(4)]
    state = json.loads(json.dumps(small.state()))
    assert state == {"next_batch": 4}
    small.close()
    resumed = _loader(shards, num_workers=1)
    next(resumed)
    resumed.restore(state)
    _assert_same(straight, first + _take(resumed, 5))
    resumed = _loader(shards)
    resumed.restore({"next_batch": 7})
    _assert_same(straight[7:], _take(resumed, 2))


def test_worker_processes_leave_the_programs_flags_as_they_were(shards):
    if flags.FLAGS.is_parsed():  # by an earlier test
        flags.FLAGS.unparse_flags()
    before = {name: flags.FLAGS[name].present for name in flags.FLAGS}
    _take(_loader(shards, num_workers=1), 1)
    assert not flags.FLAGS.is_parsed() and {name: flags.FLAGS[name].present for name in flags.FLAGS} == before


def test_each_process_lists_bad_records_in_its_own_file(shards, tmp_path):
    _break(shards, 4)
    hosts = {"bad_records_dir": tmp_path, "process_count": 2, "max_bad_fraction": 1.0}
    loaders = [_loader(shards, process_index=host, **hosts) for host in range(2)]
    for loader in loaders:
        _take(loader, 12)
    for host, name in enumerate(("bad_records.jsonl", "bad_records-1.jsonl")):
        lines = (tmp_path / name).read_text().splitlines()
        assert [json.loads(line) for line in lines] == loaders[host].bad_records


def test_cached_decoding_changes_nothing_and_has_an_end(shards, monkeypatch):
    plain = _take(_loader(shards), 9)
    _assert_same(plain, _take(_loader(shards, cache_decoded=True), 9))
    monkeypatch.setattr(clips, "CACHE_BYTES", 1)
    full = _loader(shards, cache_decoded=True)
    _assert_same(plain, _take(full, 9))
    assert len(full._chunks.reader._cache) <= 2  # two threads may both find room


def _break(data_dir, index):
    """Flips a byte in the payload of a record."""
    source = records.RecordSource(data_dir, "train")
    shard, _ = source.locate(index)
    data = bytearray(source.shards[shard].read_bytes())
    data[int(source._offsets[index]) + 40] ^= 1
    source.shards[shard].write_bytes(data)
    return source.shards[shard].name


def test_unreadable_records_are_replaced_listed_and_counted(shards, tmp_path):
    good = _take(_loader(shards), 12)
    name = _break(shards, 4)
    listed = tmp_path / "run" / "bad_records.jsonl"
    loader = _loader(shards, max_bad_fraction=0.5, bad_records_dir=listed.parent)
    batches = _take(loader, 12)
    reports = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len(reports) == 1
    assert reports[0]["record"] == 4 and reports[0]["shard"] == name and "checksum" in reports[0]["reason"]
    assert loader.stats()["bad_videos"] == 1
    replaced = 0
    for before, after in zip(good, batches, strict=True):
        kept = before["record"] != 4
        replaced += int((~kept).sum())
        np.testing.assert_array_equal(before["video"][kept], after["video"][kept])
        assert 4 not in after["record"]
    assert replaced >= 3
    assert loader.stats()["bad_fraction"] == pytest.approx(replaced / (12 * 6 + replaced), rel=0.4)
    again = _loader(shards, max_bad_fraction=0.5, bad_records_dir=listed.parent, num_workers=1)
    again.restore({"next_batch": 4})
    _assert_same(batches[4:], _take(again, 8))
    assert len(listed.read_text().splitlines()) == 1 and again.stats()["bad_videos"] == 1


@pytest.mark.parametrize("torn", [b'{"record": 7, "rea', b"12", b"\0\0\0", b'{"key": "a"}\n', b"\xff\xfe\n"])
def test_a_torn_list_of_bad_records_can_be_continued(torn, tmp_path):
    path = tmp_path / "bad_records.jsonl"
    first, second = ({"record": number, "key": f"{number}.mp4"} for number in (3, 5))
    BadRecords(1.0, path, 10).add([first], 4, "")
    with path.open("ab") as file:
        file.write(torn)
    again = BadRecords(1.0, path, 10)
    assert list(again.found) == [3]
    again.add([first, second], 4, "")
    for _ in range(2):  # and every later start
        assert BadRecords(1.0, path, 10).found == {3: first, 5: second}
    assert [json.loads(line) for line in path.read_text().splitlines()] == [first, second]


def test_undecodable_videos_count_as_bad_and_too_many_stop_the_run(tmp_path, clip_files):
    videos = [path.read_bytes() for path in clip_files]
    source = [records.Record(v if i % 4 else v[: len(v) // 2], f"{i}.mp4", 0, "", 8) for i, v in enumerate(videos)]
    with records.ShardWriter(tmp_path / records.shard_name("toy", "train", 0, 1)) as writer:
        for record in source:
            writer.write(record)
    loader = _loader(tmp_path, max_bad_fraction=0.1, bad_records_dir=tmp_path)
    with pytest.raises(
        RuntimeError, match=r"of the records cannot be read.*max_bad_fraction is 10.0%.*bad_records\.jsonl"
    ):
        _take(loader, 20)
    assert loader.state()["next_batch"] >= NUM_CLIPS // 6  # not before one epoch was seen
    keys = {json.loads(line)["key"] for line in (tmp_path / "bad_records.jsonl").read_text().splitlines()}
    assert keys <= {f"{i}.mp4" for i in range(0, NUM_CLIPS, 4)} and len(keys) >= 3


def test_nothing_readable_stops_at_once(tmp_path):
    with records.ShardWriter(tmp_path / records.shard_name("toy", "train", 0, 1)) as writer:
        for i in range(3):
            writer.write(records.Record(b"no video", f"{i}.mp4", num_frames=8))
    with pytest.raises(RuntimeError, match="20 records in a row could not be read.*not readable as a video"):
        _take(_loader(tmp_path), 1)


def test_evaluation_sees_every_video_once(shards):
    batches = list(measuring(shards, global_batch=10))
    assert [batch["weight"].tolist() for batch in batches] == [[1] * 10, [1] * 10, [1] * 3 + [0] * 7]
    record = np.concatenate([batch["record"] for batch in batches])
    assert record[:NUM_CLIPS].tolist() == list(range(NUM_CLIPS))
    hosts = [list(measuring(shards, global_batch=10, process_index=i, process_count=2)) for i in range(2)]
    _assert_same(batches, [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*hosts, strict=True)])


def test_evaluation_does_not_replace(shards):
    name = _break(shards, 4)
    settings = {"global_batch": 10}
    with pytest.raises(RuntimeError, match=f"evaluation needs every video.*{name}"):
        list(measuring(shards, **settings))
    loader = measuring(shards, allow_incomplete=True, **settings)
    batches = list(loader)
    assert batches[0]["weight"].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1, 1]
    assert [entry["record"] for entry in loader.bad_records] == [4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 7, "process_count": 2}, "7 does not divide over 2 processes"),
        ({"crop": "five"}, "'five' is unknown"),
        ({"num_frames": 0}, "at least 1"),
    ],
)
def test_impossible_settings(shards, changes, message):
    with pytest.raises(ValueError, match=message):
        _loader(shards, **changes)


def test_crop_none_is_strict(shards):
    with pytest.raises(ValueError, match="expects 16 x 16 videos, got 32 x 32"):
        _take(_loader(shards, crop="none"), 1)
    assert _take(_loader(shards, crop="none", image_size=32), 1)[0]["video"].shape == (6, 4, 32, 32, 3)


def test_a_video_that_never_ends_is_replaced_named_and_not_tried_again(shards, tmp_path, monkeypatch):
    hanging = records.RecordSource(shards, "train")[4].video
    plain, stop, tried = decode.decode_frames, threading.Event(), []

    def decode_or_hang(data, *args):
        if data == hanging:
            tried.append(stop.wait(60))
        return plain(data, *args)

    monkeypatch.setattr(decode, "decode_frames", decode_or_hang)
    listed = tmp_path / "bad_records.jsonl"
    loader = _loader(shards, max_bad_fraction=0.5, bad_records_dir=listed.parent, decoding=Decoding(timeout=1.0))
    batches = _take(loader, 2 * NUM_CLIPS // 6 + 1)
    stop.set()
    (report,) = [json.loads(line) for line in listed.read_text().splitlines()]
    assert report["record"] == 4 and report["reason"] == "decoding took more than 1 s"
    assert loader.stats()["bad_videos"] == 1
    assert all(4 not in batch["record"] for batch in batches)
    monkeypatch.setattr(decode, "decode_frames", lambda data, *args: plain(data if data != hanging else b"", *args))
    _assert_same(batches, _take(_loader(shards, max_bad_fraction=0.5), len(batches)))  # the same replacement


def test_workers_end_with_a_killed_parent(shards):
    code = (
        "import sys, time\n"
        "from tests.data import test_loader\n"
        "if __name__ == '__main__':\n"
        "    loader = test_loader._loader(sys.argv[1], num_workers=2)\n"
        "    next(loader)\n"
        "    print('reading', flush=True)\n"
        "    time.sleep(600)\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(shards)]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert "reading" in process.stdout.readline()
        by_thread = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [pid for listed in by_thread for pid in listed.read_text().split()]
    finally:
        process.kill()
        process.wait()
    assert len(children) >= 2

    def is_alive(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in children if is_alive(pid)], "workers and their tracker of shared memory"


def test_a_timeout_holds_in_worker_processes_and_evaluation(tmp_path):
    video = (Path(__file__).parent / "clips/scene/fruit_conveyor.mp4").read_bytes()
    with records.ShardWriter(tmp_path / records.shard_name("toy", "train", 0, 1)) as writer:
        for number in range(30):
            writer.write(records.Record(video, f"{number}.mp4", 0))  # no length: decoded to its end
    loader = _loader(tmp_path, num_workers=1, max_bad_fraction=1.0, decoding=Decoding(timeout=1e-3))
    with contextlib.suppress(RuntimeError):  # 20 in a row
        _take(loader, 4)
    assert {entry["reason"] for entry in loader.bad_records} == {"decoding took more than 0.001 s"}
    settings = {"global_batch": 10, "allow_incomplete": True}
    loader = measuring(tmp_path, decoding=Decoding(timeout=1e-3), **settings)
    weights = np.concatenate([batch["weight"] for batch in loader])
    assert len(loader.bad_records) == (weights == 0).sum() > 0


def test_a_call_that_was_given_up_ends_at_its_next_check():
    ended, release = threading.Event(), threading.Event()

    def work():
        release.wait(60)
        try:
            time_limit.check()
        finally:
            ended.set()

    with pytest.raises(TimeoutError, match="took more than 0.05 s"):
        time_limit.call(0.05, work)
    release.set()
    assert ended.wait(60)
    assert time_limit.call(0, int, "7") == time_limit.call(60, int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        time_limit.call(60, int, "seven")
    time_limit.check()  # no limit here: nothing happens
