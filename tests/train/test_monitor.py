"""k-NN during pre-training: due when asked, the same on any mesh, quiet where there is nothing to measure."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sigma_jax.datasets.synthetic import write_videos
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.tools import prepare
from sigma_jax.train import monitor
from sigma_jax.train.setup import build_compute
from sigma_jax.train.tasks import pretrain_task


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("monitor")
    for split, start, count in (("bank", 0, 40), ("val", 100, 21)):
        write_videos(root / split, seed=0, start=start, count=count)
        assert not prepare.main([f"--videos={root / split}", f"--out={root / 'data'}", f"--split={split}"])
    return root / "data"


def _run(data_dir, devices, **overrides):
    overrides = {f"evals.knn.{name}": str(value) for name, value in overrides.items()}
    config = apply_overrides(load_config("configs/demo.py"), overrides)
    mesh = jax.sharding.Mesh(np.array(devices).reshape(-1, 1), ("data", "fsdp"))
    task = pretrain_task(config, mesh, build_compute(config.compute))
    plan = SimpleNamespace(steps_per_epoch=10, total_steps=100)
    return SimpleNamespace(config=config, data_dir=str(data_dir), task=task, mesh=mesh, plan=plan)


def test_numbers_are_the_same_on_one_device_and_on_eight(data_dir, devices):
    found = []
    for mesh_devices in (devices[:1], devices):
        run = _run(data_dir, mesh_devices, k=5)
        (item,) = monitor.knn_monitor(run)
        params = jax.jit(run.task.init)(jax.random.key(0))
        found.append(dict(item.run(SimpleNamespace(params=params), 450)))
    assert list(found[0]) == ["knn/motion", "knn/shape", "knn/joint"]
    assert found[0] == found[1]
    num_clips = monitor.central_clips(run.config, run.data_dir, "val", 8).num_records
    assert num_clips % 8  # the last batch is padded
    for name, value in found[0].items():
        hits = value * num_clips / 100  # padding does not count
        assert abs(hits - round(hits)) < 1e-4, name


def test_due_steps_follow_the_config(data_dir, devices):
    (item,) = monitor.knn_monitor(_run(data_dir, devices[:1], every_steps=30))
    assert [step for step in range(1, 101) if item.is_due(step, 100)] == [30, 60, 90, 100]
    assert monitor.knn_monitor(_run(data_dir, devices[:1], every_steps=0)) == ()


def test_a_missing_split_is_said_and_does_not_stop_the_run(data_dir, devices, caplog):
    assert monitor.knn_monitor(_run(data_dir, devices[:1], bank_split="nowhere")) == ()
    assert "k-NN is not monitored" in caplog.text and "nowhere" in caplog.text
