"""Clustering mIoU during pre-training: the same on any mesh, quiet where there is nothing to measure."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from sigma_jax.datasets.synthetic import render_clips, render_masked_clips, write_sequences
from sigma_jax.evals.segmentation.layouts import open_sequences
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.tasks.base import Place
from sigma_jax.train.setup import build_task


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("masked")
    write_sequences(root / "segmentation", seed=0, start=5, count=5)
    return root


def evaluators(data_dir, devices, config="configs/demo.py", **overrides):
    overrides = {f"evals.segmentation.{name}": str(value) for name, value in overrides.items()}
    task = build_task(apply_overrides(load_config(config), overrides | {"evals.knn.every_steps": "0"}), devices)
    return task, task.evaluators(Place(str(data_dir), Path()))


def test_numbers_are_the_same_on_one_device_and_on_eight(data_dir, devices):
    found = []
    for mesh_devices in (devices[:1], devices):  # five clips are padded to eight
        task, (evaluator,) = evaluators(data_dir, mesh_devices)
        assert evaluator.name == "segmentation" and evaluator.every.amount == 450
        found.append(dict(evaluator.run(jax.jit(task.init)(jax.random.key(0)), 450)))
    assert found[0].keys() == {"segmentation/clustering"} and 20 < found[0]["segmentation/clustering"] <= 100
    assert found[0] == pytest.approx(found[1], abs=0.5)


def test_fewer_clips_are_another_number(data_dir, devices):
    scores = []
    for count in (2, 5):
        task, (evaluator,) = evaluators(data_dir, devices[:1], num_clips=count)
        assert len(evaluator.clips) == count
        scores.append(dict(evaluator.run(jax.jit(task.init)(jax.random.key(0)), 1)))
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    "overrides,said", [({"folder": "nowhere"}, "nowhere is no folder"), ({"layout": "davis"}, "ImageSets")]
)
def test_missing_clips_are_said_and_do_not_stop_the_run(data_dir, devices, caplog, overrides, said):
    assert evaluators(data_dir, devices[:1], **overrides)[1] == ()
    assert "segmentation is not measured" in caplog.text and said in caplog.text


def test_off_where_it_is_not_asked_for(data_dir, devices):
    assert evaluators(data_dir, devices[:1], every_steps=0)[1] == ()
    assert load_config("configs/k400.py").evals.segmentation.every_epochs == 0


def test_broken_clips_are_left_out_by_name(data_dir, devices, caplog, tmp_path):
    write_sequences(tmp_path / "segmentation", seed=0, start=0, count=2)
    first = sorted((tmp_path / "segmentation/masks").iterdir())[0]
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(first / "00003.png")
    _, (evaluator,) = evaluators(tmp_path, devices[:1])
    assert len(evaluator.clips) == 1 and first.name in caplog.text and "00003.png" in caplog.text


def test_masks_are_where_the_shape_is():
    video, mask, motion, shape = render_masked_clips(3, 10, 6)
    again = render_clips(3, 10, 6)
    assert (video == again[0]).all() and (motion == again[1]).all() and (shape == again[2]).all()
    for clip, where in zip(video.astype(int).sum(axis=-1), mask.astype(bool), strict=True):
        assert 0.02 < where.mean() < 0.5 and clip[where].mean() > clip[~where].mean() + 100


def test_sequences_on_disk_are_lossless(data_dir):
    data = open_sequences(data_dir / "segmentation", "folder")
    video, mask, *_ = render_masked_clips(0, 5, 5)
    assert len(data.sequences) == 5 and not data.left_out
    by_number = {int(sequence.name[-6:]): sequence for sequence in data.sequences}
    for i in range(5):
        frames = np.stack([np.asarray(Image.open(path)) for path in by_number[5 + i].frames])
        masks = np.stack([np.asarray(Image.open(path)) for path in by_number[5 + i].masks])
        assert (frames == video[i]).all() and (masks == mask[i]).all()
