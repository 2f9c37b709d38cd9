"""A run that is asked to stop, or killed at any moment, ends where an uninterrupted one does, bit for bit."""

import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from sigma_jax.checkpoints.content_hash import content_hash
from sigma_jax.checkpoints.manager import Checkpointer, find_checkpoint
from sigma_jax.train import config as configs
from sigma_jax.train.ahead_of_time import build_program
from sigma_jax.train.sharding import make_mesh
from tests.train import runs

CONFIG = ("total_steps=8", "checkpoint.save_every_steps=3")


def final_hash(workdir: Path) -> dict[str, str]:
    """The hash of every array of the newest checkpoint, as read back from disk."""
    values = dict(line.split("=") for line in (*runs.TINY, *CONFIG))
    config = configs.apply_overrides(configs.load_config("configs/demo.py"), values)
    state = build_program(config, make_mesh(1, 1, jax.devices()[:1]), 48).step.abstract_state
    step = int(find_checkpoint(workdir).name)
    checkpointer = Checkpointer(workdir / "checkpoints", keep_last=3, save_every_steps=3)
    restored, data_state, _ = checkpointer.restore(step, state)
    checkpointer.close()
    return {"at": f"{step} {data_state}"} | content_hash(restored)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    data = runs.make_data(folder)
    code, log = runs.finish(runs.start(folder / "run", data, *CONFIG))
    assert code == 0, log[-3000:]
    return data, folder / "run"


def wait_for_step(process, workdir: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (workdir / "metrics.jsonl").exists() and step in runs.losses(workdir):
            return
        time.sleep(0.02)


def test_sigterm_saves_this_step_and_the_restart_is_bit_equal(straight, tmp_path):
    data, reference = straight
    workdir = tmp_path / "run"
    process = runs.start(workdir, data, *CONFIG)
    wait_for_step(process, workdir, 1)
    process.send_signal(signal.SIGTERM)
    code, log = runs.finish(process)
    assert code == 75 and "asked to stop" in log and "the same command goes on from there" in log, log[-3000:]
    stopped = int(find_checkpoint(workdir).name)
    assert 1 <= stopped < 8
    code, log = runs.finish(runs.start(workdir, data, *CONFIG))
    assert code == 0 and f"resumed from step {stopped}" in log, log[-3000:]
    assert final_hash(workdir) == final_hash(reference)
    assert runs.losses(workdir) == runs.losses(reference)


def kill_again_and_again(data: Path, workdir: Path, reference: Path, kills: int, seed: int) -> int:
    """Starts the run and kills it after a random time until `kills` died; then lets it end. Returns kills done."""
    rng, done = random.Random(seed), 0
    longest = 30.0
    while done < kills:
        process = runs.start(workdir, data, *CONFIG)
        started = time.monotonic()
        time.sleep(rng.uniform(0.0, longest))
        if process.poll() is None:
            process.kill()
            done += 1
        code, log = runs.finish(process)
        if code == 0:
            longest = time.monotonic() - started
            shutil.rmtree(workdir)  # it was faster: begin again
            continue
        assert code == -signal.SIGKILL, log[-3000:]
    code, log = runs.finish(runs.start(workdir, data, *CONFIG))
    assert code == 0, log[-3000:]
    assert final_hash(workdir) == final_hash(reference)
    return done


@pytest.mark.slow
def test_kill_9_at_any_moment(straight, tmp_path):
    data, reference = straight
    assert kill_again_and_again(data, tmp_path / "run", reference, kills=2, seed=0) == 2


def test_a_run_moves_to_another_mesh_with_the_same_batches(straight, tmp_path):
    """Eight devices, data x fsdp = 2 x 4, go on from a checkpoint that one device wrote."""
    data, reference = straight
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    for folder in (workdir / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) > 6:
            shutil.rmtree(folder)
    code, log = runs.finish(runs.start(workdir, data, *CONFIG, "mesh.fsdp=4", "mesh.data=2", devices=8))
    assert code == 0 and "resumed from step 6" in log, log[-3000:]
    before, after = runs.losses(reference), runs.losses(workdir)
    np.testing.assert_allclose([after[7], after[8]], [before[7], before[8]], rtol=0, atol=1e-6)
    assert "Sinkhorn balances 16 clips at a time instead of 4" in log, "one device needed four micro-batches"
