"""Videos that hang or crash a decoder are refused; finished shards are not written again; a full disk is said."""

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sigma_jax.data import decode, records
from sigma_jax.datasets import preparing, synthetic
from sigma_jax.datasets import writing as shard_writing
from sigma_jax.datasets.listing import Entry
from sigma_jax.datasets.payload import Payload
from sigma_jax.datasets.prepare_spec import PrepareSpec
from sigma_jax.tools import prepare


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


def _kill_its_reader(fifo: Path, number: signal.Signals, then: Path | None = None) -> None:
    """A signal to the process that waits for the content of `fifo`, in whose place the file `then` is put before."""
    writer = _wait_for_its_reader(fifo)
    if then is not None:
        os.replace(then, fifo)
    for child in multiprocessing.active_children():
        os.kill(child.pid, number)
        child.join()
    os.close(writer)


def _wait_for_its_reader(fifo: Path) -> int:
    """A file descriptor to write to `fifo`, once somebody reads it."""
    deadline = time.monotonic() + 100
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)  # fails while nobody reads
        except OSError:
            assert time.monotonic() < deadline, f"nobody reads {fifo}"
            time.sleep(0.05)


def _limit_only(monkeypatch, name: str) -> None:
    """The time limit holds for one video: the others may take as long as a busy machine makes them."""
    schedule = shard_writing.ProcessPool.schedule

    def schedule_one(pool, function, args, timeout):
        return schedule(pool, function, args=args, timeout=timeout if args[2].key == name else None)

    monkeypatch.setattr(shard_writing.ProcessPool, "schedule", schedule_one)


def test_a_crashing_and_a_hanging_video_are_refused_and_the_rest_is_kept(videos, tmp_path, capsys, monkeypatch):
    _limit_only(monkeypatch, "000004x.mp4")
    for name in ("000002x.mp4", "000003x.mp4", "000004x.mp4"):
        os.mkfifo(videos / name)
    shutil.copy(videos / "000000.mp4", tmp_path / "whole.mp4")

    def kill():
        _kill_its_reader(videos / "000002x.mp4", signal.SIGSEGV)
        _kill_its_reader(videos / "000003x.mp4", signal.SIGTERM, then=tmp_path / "whole.mp4")  # not the video's fault

    killer = threading.Thread(target=kill)
    killer.start()
    assert _prepare(tmp_path / "out", videos, "--workers=1", "--timeout=1", "--shards=1") == 0
    killer.join()
    printed = capsys.readouterr().out
    assert "000002x.mp4: crashed the decoder (SIGSEGV)" in printed
    assert "000004x.mp4: took more than 1 s" in printed
    assert _keys(tmp_path / "out") == sorted([*(f"{i:06d}.mp4" for i in range(6)), "000003x.mp4"])
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

    monkeypatch.setattr("sigma_jax.datasets.payload.probe", stop_at_the_fifth)
    assert _prepare(out, videos, "--workers=0", "--shards=3") == 130
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
    assert "only 1 MiB are left on the disk of" in error and "expected 64 (64 stay free)" in error
    assert "Finished shards are kept: make room and run the same command again" in error
    assert len(list(out.glob("*.tfrecord"))) == 1 and not list(out.glob("*.partial"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 2**30))
    assert _prepare(out, videos, "--workers=0", "--shards=3") == 0 and len(_keys(out)) == 6
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert _prepare(tmp_path / "other", videos, "--workers=0") == 2
    assert "expected 64 (64 stay free)" in capsys.readouterr().err and not list((tmp_path / "other").glob("*record*"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fills_while_a_shard_is_written(videos, tmp_path, monkeypatch, capsys, workers):
    out = tmp_path / "out"
    assert _prepare(out, videos, "--workers=0", "--shards=1") == 0
    size = next(out.glob("*.tfrecord")).stat().st_size
    shutil.rmtree(out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(errno, "ENOSPC", errno.EFBIG)  # what the limit below gives instead
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        code = _prepare(out, videos, f"--workers={workers}", "--shards=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2 and "make room and run the same command again" in capsys.readouterr().err
    assert not list(out.glob("*.tfrecord*"))


def test_processes_leave_nothing_unfinished_behind(videos, tmp_path, monkeypatch):
    os.mkfifo(videos / "zz.mp4")  # the last video never comes

    def stop(n):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        preparing.tqdm, "update", lambda bar, n: stop(n) if bar.n == 5 else setattr(bar, "n", bar.n + n)
    )
    assert _prepare(tmp_path / "out", videos, "--workers=1", "--shards=1") == 130
    assert not list((tmp_path / "out").glob("*.tfrecord*"))


def test_processes_end_with_a_killed_run(videos, tmp_path):
    os.mkfifo(videos / "000000.mkv")  # the first video never comes
    command = [sys.executable, "-m", "sigma_jax.tools.prepare", f"--videos={videos}", f"--out={tmp_path / 'out'}"]
    run = subprocess.Popen([*command, "--workers=1", "--shards=1"], cwd=Path(__file__).parents[2])
    writer = _wait_for_its_reader(videos / "000000.mkv")
    run.kill()
    run.wait()
    deadline = time.monotonic() + 60
    with os.fdopen(writer, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):  # nobody reads any more
        while time.monotonic() < deadline:
            pipe.write(b"x")
            time.sleep(0.05)


def test_the_size_of_all_shards_is_told_early(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preparing, "_EARLY", 3)
    usage, out = shutil.disk_usage(tmp_path), tmp_path / "out"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**38))
    assert _prepare(out, videos, "--workers=0", "--payload=jpeg") == 0
    assert "train will take about 0.0 GiB, 0.0 more, and 256.0 are free\n" in capsys.readouterr().out
    size = next(out.glob("*.tfrecord")).stat().st_size
    writer = preparing._SplitWriter(PrepareSpec(out, videos), "train", print)
    told = writer.forecast(size / 2**38)
    assert told.startswith("train will take about 256.0 GiB, 256.0 more") and told.endswith("256.0 are free")
    told = writer.forecast(size / 2**39)
    assert told.startswith("train will take about 512.0 GiB") and "they will not fit" in told


def test_a_disk_of_videos_that_goes_away_finishes_nothing(videos, tmp_path, monkeypatch, capsys):
    def lose_the_disk(data, payload):
        if videos.exists():
            videos.rename(tmp_path / "away")
        return store(data, payload)

    out, store = tmp_path / "out", shard_writing.store
    with monkeypatch.context() as patched:
        patched.setattr(shard_writing, "store", lose_the_disk)
        assert _prepare(out, videos, "--workers=0", "--shards=2") == 2
    assert "has disappeared: when it is back, the same command continues" in capsys.readouterr().err
    (tmp_path / "away").rename(videos)
    assert _prepare(out, videos, "--workers=0", "--shards=2") == 0 and len(_keys(out)) == 6


def test_a_huge_file_is_refused_before_it_is_read(videos, tmp_path, capsys):
    with (videos / "huge.mp4").open("wb") as file:
        file.truncate(2**40)
    assert _prepare(tmp_path / "out", videos, "--workers=0", "--payload=jpeg") == 0
    assert f"huge.mp4: {2**40} bytes, more than {2**30}: cut or re-encode it" in capsys.readouterr().out


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
    error = capsys.readouterr().err
    assert "prepare: " in error and f"--out={tmp_path / 'file' / 'out'} must be a folder that can be written" in error
