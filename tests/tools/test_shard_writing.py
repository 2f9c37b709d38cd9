"""Videos that hang or crash a decoder are refused; finished shards are not written again; a full disk is said."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sigma_jax.data import decode, records, synthetic
from sigma_jax.data.listing import Entry
from sigma_jax.data.payload import Payload
from sigma_jax.tools import prepare, shard_writing


@pytest.fixture
def videos(tmp_path) -> Path:
    folder = tmp_path / "videos"
    synthetic.write_videos(folder, seed=0, start=0, count=6, labelled=False)
    return folder


def _prepare(out, videos, *flags):
    return prepare.main([f"--videos={videos}", f"--out={out}", *flags])


def _keys(out):
    source = records.RecordSource(out, "train")
    return sorted(source.read_whole(i).key for i in range(len(source)))


def _kill_its_reader(fifo: Path) -> None:
    """SIGSEGV to the process that waits for the content of `fifo`."""
    deadline, writer = time.monotonic() + 100, None
    while writer is None and time.monotonic() < deadline:
        try:
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)  # fails while nobody reads
        except OSError:
            time.sleep(0.05)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGSEGV)
        child.join()
    os.close(writer)


def test_a_crashing_and_a_hanging_video_are_refused_and_the_rest_is_kept(videos, tmp_path, capsys):
    os.mkfifo(videos / "000002x.mp4")
    os.mkfifo(videos / "000004x.mp4")
    killer = threading.Thread(target=_kill_its_reader, args=(videos / "000002x.mp4",))
    killer.start()
    assert _prepare(tmp_path / "out", videos, "--workers=1", "--timeout=4", "--shards=1") == 0
    killer.join()
    printed = capsys.readouterr().out
    assert "000002x.mp4: crashed the decoder (SIGSEGV)" in printed
    assert "000004x.mp4: took more than 4 s" in printed
    assert _keys(tmp_path / "out") == [f"{i:06d}.mp4" for i in range(6)]
    os.remove(videos / "000002x.mp4")
    os.remove(videos / "000004x.mp4")
    assert _prepare(tmp_path / "straight", videos, "--workers=0", "--shards=1") == 0
    shards = [next((tmp_path / name).glob("*.tfrecord")) for name in ("out", "straight")]
    assert shards[0].read_bytes() == shards[1].read_bytes()


def test_finished_shards_are_not_written_again(videos, tmp_path, monkeypatch):
    out, probe, seen = tmp_path / "out", decode.probe, []

    def stop_at_the_fifth(data, visit=None):
        seen.append(len(data))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return probe(data, visit)

    monkeypatch.setattr("sigma_jax.data.payload.probe", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        _prepare(out, videos, "--workers=0", "--shards=3")
    assert len(list(out.glob("*.tfrecord"))) == 2
    assert _prepare(out, videos, "--workers=0", "--shards=3") == 0
    assert len(seen) == 5 + 2  # of the last shard only
    assert _prepare(tmp_path / "straight", videos, "--workers=0", "--shards=3") == 0
    assert {p.name: p.read_bytes() for p in out.iterdir() if "report" not in p.name and "index" not in p.name} == {
        p.name: p.read_bytes()
        for p in (tmp_path / "straight").iterdir()
        if "report" not in p.name and "index" not in p.name
    }
    assert (out / "prepare_report.json").read_text() == (tmp_path / "straight/prepare_report.json").read_text()


def test_the_fingerprint_knows_files_labels_and_payload(videos, tmp_path):
    entry = Entry(videos / "000000.mp4", "000000.mp4", "")
    job = shard_writing.ShardJob(tmp_path / "x.tfrecord", [entry], {"": -1}, Payload())
    others = [replace(job, entries=[]), replace(job, labels={"": 3}), replace(job, payload=Payload("jpeg"))]
    prints = {job.fingerprint(), *(other.fingerprint() for other in others)}
    assert job.fingerprint() in prints
    entry.path.write_bytes(b"other")
    assert len(prints | {job.fingerprint()}) == 5


def test_a_full_disk_keeps_finished_shards(videos, tmp_path, monkeypatch, capsys):
    usage, calls = shutil.disk_usage(tmp_path), []

    def nearly_full(path):
        calls.append(path)
        return usage._replace(free=10 * 2**30 if len(calls) < 5 else 2**20)

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    out = tmp_path / "out"
    assert _prepare(out, videos, "--workers=0", "--shards=3") == 2
    error = capsys.readouterr().err
    assert "only 1 MiB are left" in error and "run the same command again" in error
    assert len(list(out.glob("*.tfrecord"))) == 1 and not list(out.glob("*.partial"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 2**30))
    assert _prepare(out, videos, "--workers=0", "--shards=3") == 0 and len(_keys(out)) == 6
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert _prepare(tmp_path / "other", videos, "--workers=0") == 2
    assert "has room for" in capsys.readouterr().err


def test_a_video_deleted_half_way_is_refused(videos, tmp_path, monkeypatch):
    store = shard_writing.store

    def delete_the_next(data, payload):
        (videos / "000003.mp4").unlink(missing_ok=True)
        return store(data, payload)

    monkeypatch.setattr(shard_writing, "store", delete_the_next)
    assert _prepare(tmp_path / "out", videos, "--workers=0") == 0
    assert _keys(tmp_path / "out") == [f"{i:06d}.mp4" for i in (0, 1, 2, 4, 5)]
    assert "No such file" in (tmp_path / "out/prepare_report.json").read_text()


def test_an_out_that_cannot_be_written(videos, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert _prepare(tmp_path / "file" / "out", videos, "--workers=0") == 2
    assert "prepare: " in capsys.readouterr().err
