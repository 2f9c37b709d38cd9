"""The main command: a run from shards to report, every config, mistakes as sentences, resuming after kill -9."""

import dataclasses
import importlib.util
import json
import logging
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sigma_jax import main as command
from sigma_jax.checkpoints.manager import Checkpointer, SaveFailed
from sigma_jax.runtime.folder_lock import owned
from sigma_jax.train import loop, setup
from sigma_jax.train.initial_weights import StartFrom
from sigma_jax.train.resuming import Allowed, ChangedConfig
from tests.train.small import shrunk, with_program

ROOT = Path(__file__).resolve().parents[2]


def test_the_published_config_trains_two_shrunk_steps(shapes_dir, tmp_path, devices):
    """With an image teacher; the run that other tests look at (demo_run) is one of SIGMA-MLP."""
    config = shrunk("configs/k400.py:target=dino,teacher=tiny")
    run = setup.build(config, tmp_path, str(shapes_dir), start=StartFrom(random_teacher=True))
    state = loop.train(run)
    assert int(state.step) == 2
    lines = [line for line in metrics(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2] and all(np.isfinite(line["loss"]) for line in lines)
    assert lines[1]["lr"] > 0 and run.loader.state() == {"next_batch": 2}


def metrics(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def cli(*words) -> int:
    """The command in this process."""
    return command.main(["sigma_jax.main", *map(str, words)])


@pytest.fixture
def said():
    """What the command logs, whatever other tests did to logging."""
    lines = []

    class Collector(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    collector = Collector(logging.ERROR)
    logger = logging.getLogger("absl")
    logger.addHandler(collector)
    yield lines
    logger.removeHandler(collector)


@pytest.fixture
def flags_restored():
    from absl.testing import flagsaver

    cache = jax.config.jax_compilation_cache_dir
    with flagsaver.flagsaver():
        for flag in command.FLAGS.get_flags_for_module(command):
            flag.unparse()  # whatever other tests have set
        yield
    jax.config.update("jax_compilation_cache_dir", cache)


@pytest.mark.parametrize(
    "words,message",
    [
        (["--config=configs/k40.py"], "did you mean 'configs/k400.py'"),
        (["--config=configs/k400.py:sise=S"], "did you mean 'size'"),
        (["--config=configs/k400.py:size=XS"], "expected one of B, S, L, H"),
        (["--config=configs/demo.py", "--config.optim.base_rl=1"], "did you mean 'optim.base_lr'"),
        (["--config=configs/demo.py", "--config.batch_size=many"], "expected int"),
        (["--config=configs/demo.py", "--data_dir="], "sigma_jax.tools.prepare"),
        (["--config=configs/demo.py", "--data_dir=/nowhere"], "sigma_jax.tools.prepare"),
        (["--config=configs/k400.py"], "--platform=cpu"),
        (["--config=configs/demo.py", "--config.batch_size=63"], "one of \\[56, 64\\]"),
        (["--config=configs/demo.py", "--config.model.image_size=30"], "image_size=30"),
        (["--config=configs/demo.py", "--config.objective.mask_ratio=1.5"], "mask_ratio=1.5"),
        (["--config=configs/demo.py", "--config.objective.num_prototypes=1"], "at least 2"),
        (["--config=configs/demo.py", "--config.objective.target=clip"], "choose one of mlp"),
        (["--config=configs/demo.py:target=dino,teacher=tiny,size=tiny"], "needs the weights of its teacher"),
        (["--config=configs/demo.py", "--config.mesh.data=3"], "does not make 8 devices"),
        (["--config=configs/demo.py", "--workdir=gs://b/run"], "expected a local folder.*--checkpoint_dir"),
        (["--config=configs/demo.py", "--data_dir=gs://b/k400"], "--data_dir=gs://b/k400: expected a local folder"),
        (["--config=configs/demo.py", "--checkpoint_dir=/dev/null/run"], "/dev/null/run cannot be written"),
        (["--config=configs/demo.py", "--config.compute.attention=flash"], "choose one of"),
        (["--config=configs/demo.py", "--config.compute.remat=some"], "choose one of"),
    ],
    ids=lambda value: value[-1][9:40] if isinstance(value, list) else "",
)
def test_mistakes_are_sentences(words, message, shapes_dir, tmp_path, said, flags_restored):
    given = [f"--workdir={tmp_path}", f"--data_dir={shapes_dir}", *words]
    if message == "--platform=cpu":
        given = [word for word in given if "platform" not in word]
    assert cli(*given) == 1
    assert re.search(message, "\n".join(said)), said
    assert not (tmp_path / "checkpoints").exists()


@pytest.fixture
def copied(demo_run, tmp_path) -> Path:
    """The folder of a finished run."""
    return shutil.copytree(demo_run.workdir, tmp_path / "run")


def test_a_changed_config_is_refused_and_named(shapes_dir, demo_run, copied):
    def run(**changes):
        return with_program(
            setup.build(shrunk("configs/demo.py", **changes), copied, str(shapes_dir)), demo_run.program
        )

    with pytest.raises(ChangedConfig, match="optim.weight_decay: 0.05 -> 0.1"):
        loop.train(run(**{"optim.weight_decay": "0.1"}))
    assert json.loads((copied / "config.json").read_text())["optim"]["weight_decay"] == 0.05
    assert int(loop.train(run(**{"optim.weight_decay": "0.1"}), allowed=Allowed(config=True)).step) == 2


def test_a_workdir_belongs_to_one_run(shapes_dir, tmp_path, said, flags_restored):
    words = ("--config=configs/demo.py", f"--data_dir={shapes_dir}")
    for name, busy in (("workdir", tmp_path / "run"), ("checkpoint_dir", tmp_path / "kept")):
        with owned(busy, print):
            given = {"workdir": tmp_path / "free"} | {name: busy}
            assert cli(*words, *(f"--{flag}={place}" for flag, place in given.items())) == 1
        assert f"{busy} is in use by process {os.getpid()}" in said.pop()
        assert not list(tmp_path.rglob("config.json"))


def test_versions_of_what_is_there(monkeypatch):
    """Shards of pictures are trained on without a library for videos."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "av" else find(name))
    found = loop.versions()
    assert "av" not in found and {"jax", "numpy", "sigma_jax"} <= found.keys()


def refuse(*args, **kwargs):
    raise OSError("no space left")


def test_the_last_save_must_succeed(shapes_dir, demo_run, tmp_path, monkeypatch):
    monkeypatch.setattr(ocp.CheckpointManager, "save", refuse)
    run = with_program(setup.build(shrunk("configs/demo.py"), tmp_path, str(shapes_dir)), demo_run.program)
    with pytest.raises(SaveFailed, match="step 2, the last one, is not saved"):
        loop.train(run)


def test_a_stop_that_could_not_save_says_so(shapes_dir, demo_run, copied, monkeypatch):
    run = setup.build(shrunk("configs/demo.py"), copied, str(shapes_dir))
    run = with_program(run, demo_run.program, total_steps=9)
    monkeypatch.setattr(Checkpointer, "reached_preemption", lambda self, step: step == 3)
    monkeypatch.setattr(ocp.CheckpointManager, "save", refuse)
    with pytest.raises(loop.Preempted, match="step 3 is not saved .see above.; the same command goes on from 2"):
        loop.train(run)


def test_a_run_that_is_never_finite_stops_with_evidence(shapes_dir, demo_run, tmp_path):
    config = shrunk("configs/demo.py", **{"health.max_nonfinite_run": "2"})
    run = with_program(setup.build(config, tmp_path, str(shapes_dir)), demo_run.program, total_steps=9)
    state = run.init_state()
    params = dict(state.params, encoder=jax.tree.map(lambda x: x * np.nan, state.params["encoder"]))
    run = dataclasses.replace(run, init_state=lambda: state._replace(params=params))
    with pytest.raises(loop.NonFinite, match="first in"):
        loop.train(run)
    (dump,) = tmp_path.glob("nonfinite_step_*.json")
    evidence = json.loads(dump.read_text())
    source = run.loader._chunks.reader.source
    assert evidence["record_keys"] and set(evidence["record_keys"]) <= {source[i].key for i in range(len(source))}
    assert evidence["first_nonfinite_module"].startswith("encoder")
