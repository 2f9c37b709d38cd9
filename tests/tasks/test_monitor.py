"""k-NN during pre-training: due when asked, the same on any mesh, quiet where there is nothing to measure."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sigma_jax.datasets.synthetic import write_videos
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.tasks import pretrain
from sigma_jax.tasks.base import Place
from sigma_jax.tasks.pretrain import central_clips
from sigma_jax.tools import prepare
from sigma_jax.train.loop import is_due
from sigma_jax.train.setup import build_task


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("monitor")
    for split, start, count in (("bank", 0, 40), ("val", 100, 21)):
        write_videos(root / split, seed=0, start=start, count=count)
        assert not prepare.main(
            [f"--videos={root / split}", f"--out={root / 'data'}", f"--split={split}", "--workers=0"]
        )
    return root / "data"


def _task(devices, **overrides):
    overrides = {f"evals.knn.{name}": str(value) for name, value in overrides.items()}
    return build_task(apply_overrides(load_config("configs/demo.py"), overrides), devices)


def test_numbers_are_the_same_on_one_device_and_on_eight(data_dir, devices):
    found = []
    for mesh_devices in (devices[:1], devices):
        task = _task(mesh_devices, k=5)
        (evaluator,) = task.evaluators(Place(str(data_dir), Path()))
        found.append(dict(evaluator.run(jax.jit(task.init)(jax.random.key(0)), 450)))
    assert list(found[0]) == ["knn/motion", "knn/shape", "knn/joint"]
    assert found[0] == found[1]
    num_clips = central_clips(task, str(data_dir), "val", 8).num_records
    assert num_clips % 8  # the last batch is padded
    for name, value in found[0].items():
        hits = value * num_clips / 100  # padding does not count
        assert abs(hits - round(hits)) < 1e-4, name


@pytest.mark.parametrize("cached", [True, False])
def test_clips_are_decoded_once_where_decoded_videos_are_kept(data_dir, devices, monkeypatch, cached):
    task = build_task(apply_overrides(load_config("configs/demo.py"), {"data.cache_decoded": str(cached)}), devices[:1])
    (evaluator,) = task.evaluators(Place(str(data_dir), Path()))
    opened = []
    monkeypatch.setattr(pretrain, "central_clips", lambda *args: opened.append(args[2]) or central_clips(*args))
    shown = [list(evaluator.test_batches()) for _ in range(2)]
    assert opened == ["val"] * (1 if cached else 2)
    np.testing.assert_array_equal(shown[0][0]["video"], shown[1][0]["video"])


def test_due_steps_follow_the_config(data_dir, devices):
    place, plan = Place(str(data_dir), Path()), SimpleNamespace(steps_per_epoch=10, total_steps=100)
    (evaluator,) = _task(devices[:1], every_steps=30).evaluators(place)
    assert [step for step in range(1, 101) if is_due(evaluator, step, plan)] == [30, 60, 90]
    assert _task(devices[:1], every_steps=0).evaluators(place) == ()


def test_a_missing_split_is_said_and_does_not_stop_the_run(data_dir, devices, caplog):
    assert _task(devices[:1], bank_split="nowhere").evaluators(Place(str(data_dir), Path())) == ()
    assert "k-NN is not measured" in caplog.text and "nowhere" in caplog.text
