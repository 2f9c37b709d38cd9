"""Runs made by version 9a6ef83 (November 2026) can be resumed: their checkpoints, their folders, their data position.

The archive holds `data` (12 labelled clips), and after 3 of 6 steps `pretrain` (feature queue, k-NN) and
`finetune` (averaged weights, a folder `best`), with the numbers that the old program wrote for all 6 steps. Both
were trained by `python -m sigma_jax.main` with the model size MICRO.
"""

import dataclasses
import json
import tarfile
from pathlib import Path

import pytest

from sigma_jax.models.sizes import VIDEO_SIZES, VideoSize
from sigma_jax.runtime.config import load_json
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.train import loop, setup

ARCHIVE = Path(__file__).parent / "fixtures" / "runs_of_november_2026.tar.xz"
MICRO = VideoSize(12, 2, 2, 8, 2, 1)
COMPARED = ("loss", "grad_norm", "lr", "knn/joint", "val/top1", "test/top1")


def rows(workdir: Path) -> dict[tuple[int, str], float]:
    """(step, name) -> number, of metrics.jsonl."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): line[name] for line in lines for name in COMPARED if name in line}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(place, filter="data")
    return place


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_run_of_an_old_version_goes_on(folder, name, monkeypatch, devices):
    monkeypatch.setitem(VIDEO_SIZES, "micro", MICRO)
    monkeypatch.setattr(setup, "make_mesh", lambda data, fsdp, _: make_mesh(data, fsdp, devices[:1]))  # as it had
    workdir = folder / name
    before = rows(workdir)
    config = load_json(workdir / "config.json")
    run = setup.build(config, workdir, str(folder / "data"))
    run = dataclasses.replace(run, init_state=lambda: pytest.fail("it starts anew"))
    assert int(loop.train(run).step) == 6
    after = rows(workdir)
    assert after.keys() == before.keys() and (4, "loss") in after and (6, "loss") in after
    for key, number in before.items():
        assert after[key] == pytest.approx(number, rel=2e-4), key
