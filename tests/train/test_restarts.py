"""A run that is asked to stop, or killed at any moment, ends where an uninterrupted one does, bit for bit.

SIGMA_KILLS=20 kills that often (default 3); SIGMA_KILL_SEED chooses other moments.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from sigma_jax.checkpoints.manager import find_checkpoint
from tests.train import runs

STEPS = 12
CONFIG = (f"total_steps={STEPS}", "checkpoint.save_every_steps=5", "data.num_workers=1")
QUEUE = ("objective.queue_batches=2", "objective.queue_start_batches=2")  # past features are a part of the state
SHRINK = tuple("max_batch_per_device=16" if "max_batch" in value else value for value in runs.TINY) + QUEUE
KILLS = int(os.environ.get("SIGMA_KILLS", "3"))
MOMENTS = ("step", "save", "start")  # in turn: between two steps, with a half-written checkpoint, while starting


def start(workdir: Path, data: Path):
    return runs.start(workdir, data, *CONFIG, flags=("--noreport",), shrink=SHRINK)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(shards, workdir) of the run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("straight")
    data = runs.make_data(folder)
    code, log = runs.finish(start(folder / "run", data))
    assert code == 0, log[-3000:]
    return data, folder / "run"


def steps_done(workdir: Path) -> int:
    metrics = workdir / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0  # one line per step


def wait_until(process, condition) -> None:
    """Until the condition holds or the process ends; one that does neither is stopped, and the test fails."""
    deadline = time.monotonic() + 200
    while process.poll() is None and not condition():
        if time.monotonic() > deadline:
            runs.stop_with_stacks(process)
        time.sleep(0.002)


def test_an_undisturbed_run_leaves_its_files(straight):
    _, workdir = straight
    assert sorted(runs.losses(workdir)) == list(range(1, STEPS + 1))
    for name in ("config.json", "plan.txt", "versions.json", "command.txt", "tensorboard"):
        assert (workdir / name).exists(), name


def die(process, workdir: Path, moment: str, rng: random.Random) -> bool:
    """Kills the process at the moment; False where it came too late. A save that was hit leaves its traces."""
    half_written = workdir / "checkpoints"
    if moment == "start":
        time.sleep(rng.uniform(0, 4))
    else:
        seen = steps_done(workdir)
        target = seen + rng.randint(1, max(1, STEPS // (2 * KILLS)))
        wait_until(process, lambda: steps_done(workdir) >= target)
    if moment == "save":
        wait_until(process, lambda: any(half_written.glob("*.orbax-checkpoint-tmp")))
    time.sleep(rng.uniform(0, 0.02))
    alive = process.poll() is None
    process.kill()
    return alive


def stop(process, workdir: Path) -> int:
    """Sends SIGTERM once a step more is done; the step that was saved."""
    target = steps_done(workdir) + 1
    wait_until(process, lambda: steps_done(workdir) >= target)
    process.send_signal(signal.SIGTERM)
    code, log = runs.finish(process)
    assert code == 75 and "the same command goes on from there" in log, log[-3000:]
    return int(find_checkpoint(workdir).name)


def test_stopped_and_killed_at_any_moment_it_ends_bit_equal(straight, tmp_path):
    data, reference = straight
    workdir, rng = tmp_path / "run", random.Random(int(os.environ.get("SIGMA_KILL_SEED", "0")))
    stopped = stop(start(workdir, data), workdir)
    assert 1 <= stopped < STEPS and steps_done(workdir) == stopped, "the step that was just done is saved"
    kills, saves_hit, begun = 0, 0, time.monotonic()
    while kills < KILLS:
        process = start(workdir, data)
        moment = MOMENTS[kills % len(MOMENTS)]
        killed = die(process, workdir, moment, rng)
        code, log = runs.finish(process)
        assert code == (-signal.SIGKILL if killed else 0), log[-3000:]
        assert kills or not killed or f"resumed from step {stopped}" in log, log[-3000:]
        kills += killed
        left = list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")) if workdir.exists() else []
        saves_hit += bool(left)
        print(f"kill {kills} ({moment}): {steps_done(workdir)} steps logged, half-written: {[p.name for p in left]}")
        if not killed:  # it was faster, and did it right: another one
            assert runs.outcome(workdir) == runs.outcome(reference)
            shutil.rmtree(workdir)
    code, log = runs.finish(start(workdir, data))
    assert code == 0, log[-3000:]
    assert runs.outcome(workdir) == runs.outcome(reference)
    print(f"{kills} kills, {saves_hit} of them inside a save, {time.monotonic() - begun:.0f} s")
