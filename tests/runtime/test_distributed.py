"""Runs of several processes: equal to one process, killed and started again, checkpoints across process counts."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sigma_jax.runtime import distributed
from tests.train import runs

PROBE = {
    "config": "configs/linear_probe.py:dataset=folder,size=tiny",
    "shrink": (
        *("model.num_frames=4", "model.image_size=32", "data.short_side=32", "data.num_workers=0", "batch_size=16"),
        *("data.split=train", "data.val_split=train", "data.test_split=train", "total_steps=1", "optim.warmup_steps=0"),
        *("evals.num_views=2", "evals.num_crops=1", "evals.batch_size=40"),
    ),
}


def two_processes(
    workdir, data, *overrides, devices: int = 4, second: tuple[str, ...] = (), flags: tuple[str, ...] = (), **config
):
    """Two training processes of some devices each that meet; `second`: values that only the second one is given."""
    address = f"--coordinator=localhost:{runs.free_port()}"
    limits = ("--num_processes=2", "--connect_seconds=60", "--peer_seconds=10")
    return [
        runs.start(
            workdir, data, *more, devices=devices, flags=(address, *limits, *flags, f"--process_id={i}"), **config
        )
        for i, more in enumerate((overrides, (*overrides, *second)))
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Shards; four steps by one process of eight devices, and by two processes of four."""
    folder = tmp_path_factory.mktemp("runs")
    data = runs.make_data(folder)
    every = ("checkpoint.save_every_steps=2", "mesh.fsdp=2")
    runs.run_here(folder / "one", data, "total_steps=4", *every)
    for _ in range(2):  # a cold compilation on a busy machine can outlast gloo's 30 s; it is cached the second time
        ended = [runs.finish(process) for process in two_processes(folder / "two", data, "total_steps=4", *every)]
        if not any("Gloo context initialization failed" in log for _, log in ended):
            break
    assert [code for code, _ in ended] == [0, 0], "\n".join(log[-3000:] for _, log in ended)
    return SimpleNamespace(folder=folder, data=data, logs=[log for _, log in ended], every=every)


def test_processes_started_with_other_values_stop_at_once(finished):
    """Their parameters would drift apart without a sound."""
    started = two_processes(finished.folder / "other", finished.data, "total_steps=4", second=("optim.base_lr=1",))
    (first, said), (second, difference) = [runs.finish(process) for process in started]
    assert (first, second) == (1, 1), said + difference
    assert "process(es) [1] were started with other values than this one" in said
    assert "process 0 was started with other values" in difference and "optim.base_lr: 0.004 -> 1.0" in difference
    assert not (finished.folder / "other" / "metrics.jsonl").exists()


def test_two_processes_train_as_one(finished):
    one, two = runs.losses(finished.folder / "one"), runs.losses(finished.folder / "two")
    assert list(one) == list(two) == [1, 2, 3, 4]
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-6)
    assert one[1] != one[4]


def test_preflight_is_printed_and_only_the_first_process_writes(finished):
    for index, log in enumerate(finished.logs):
        assert "2 process(es) x 4 local device(s) = 8 device(s)" in log and f"this is process {index}" in log
    assert "step 4/4" in finished.logs[0] and "step 4/4" not in finished.logs[1]
    rows = (finished.folder / "two" / "metrics.jsonl").read_text().splitlines()
    assert sorted(json.loads(row)["step"] for row in rows if "loss" in row) == [1, 2, 3, 4], "each step once"
    assert "report.html" in finished.logs[0] and "report.html" not in finished.logs[1]


def test_two_processes_write_the_report(finished):
    """Prototypes are split over fsdp: each process holds a part of what the first one draws."""
    one, two = (finished.folder / name for name in ("one", "two"))
    assert (two / "report.html").stat().st_size > 10_000
    for picture in ("curves.png", "clips.png", "prototypes.png"):
        assert (two / "pictures" / picture).stat().st_size > 1000
    assert (one / "pictures" / "clips.png").read_bytes() == (two / "pictures" / "clips.png").read_bytes()


def test_checkpoint_of_two_restores_in_one(finished):
    """The run of two processes, cut back to step 2, goes on in one process on another mesh with the same batches."""
    workdir = finished.folder / "moved"
    shutil.copytree(finished.folder / "two", workdir)
    shutil.rmtree(workdir / "checkpoints" / "4")
    moved = [value for value in finished.every if "fsdp" not in value] + ["mesh.fsdp=1", "total_steps=4"]
    runs.run_here(workdir, finished.data, *moved)
    two = (finished.folder / "two" / "metrics.jsonl").read_text().split('{"step": 3')[0]
    assert (workdir / "metrics.jsonl").read_text().startswith(two), "steps 1 and 2 were trained again"
    one, again = runs.losses(finished.folder / "one"), runs.losses(workdir)
    np.testing.assert_allclose([again[3], again[4]], [one[3], one[4]], rtol=1e-6)


def test_two_processes_evaluate_as_one(finished):
    """Each reads its share of 48 videos (no multiple of the batch); every video is scored once, by the same views."""
    one, two = finished.folder / "probe_one", finished.folder / "probe_two"
    runs.run_here(one, finished.data, **PROBE)
    ended = [runs.finish(process) for process in two_processes(two, finished.data, **PROBE)]
    assert [code for code, _ in ended] == [0, 0], "\n".join(log[-3000:] for _, log in ended)
    results = [json.loads((folder / "eval" / "result.json").read_text()) for folder in (one, two)]
    assert results[0]["num_videos"] == results[1]["num_videos"] == 48 and results[1]["complete"]
    scores = [np.load(folder / "eval" / "scores.npz") for folder in (one, two)]
    for name in ("keys", "labels", "records"):
        np.testing.assert_array_equal(scores[0][name], scores[1][name])
    np.testing.assert_allclose(scores[0]["probabilities"], scores[1]["probabilities"], rtol=0, atol=1e-6)


def test_when_one_is_killed_the_other_stops(finished):
    first, second = two_processes(
        finished.folder / "lost", finished.data, "total_steps=100000", *finished.every, devices=1
    )
    metrics = finished.folder / "lost" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not metrics.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    second.kill()
    killed = time.monotonic()
    code, log = runs.finish(first, 120)
    runs.finish(second)
    assert code in (distributed.LOST_CODE, -signal.SIGABRT), log[-3000:]  # both are started again
    assert time.monotonic() - killed < 90
    assert "another process stopped" in log or "distributed service detected fatal errors" in log, log[-3000:]


def test_when_one_is_killed_all_start_again(finished):
    """Each under launch/keep_running.sh: the coordinator is killed at step 5 or later, and both end the same run."""
    workdir, metrics = finished.folder / "again", finished.folder / "again" / "metrics.jsonl"
    under = ("bash", "launch/keep_running.sh", "cpu")
    words = ("total_steps=14", *finished.every)
    hosts = two_processes(workdir, finished.data, *words, devices=1, under=under, flags=("--noreport",))
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") >= 5) and time.monotonic() < deadline:
        time.sleep(0.02)
    (training,) = Path(f"/proc/{hosts[0].pid}/task/{hosts[0].pid}/children").read_text().split()
    os.kill(int(training), signal.SIGKILL)
    ended = [runs.finish(host) for host in hosts]
    logs = "\n".join(log[-4000:] for _, log in ended)
    assert [code for code, _ in ended] == [0, 0], logs
    assert all("starting again" in log and "resumed from step" in log for _, log in ended), logs
    assert "exit status 137" in ended[0][1] and list(runs.losses(workdir)) == list(range(1, 15)), logs
