"""Counting and multi-label classification as tasks: they learn, count alike on any mesh, and tell what is missing."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sigma_jax.data.cycle_clips import CyclesSpec, fit_square, longest_clip
from sigma_jax.data.loader import LoaderSpec, OnePass, Shuffled, open_loader
from sigma_jax.data.records import DataSetError
from sigma_jax.data.source import open_source
from sigma_jax.datasets.synthetic_severe import render_cycles
from sigma_jax.evals.multi_view import MAXIMUM_OF_SIGMOID, VideoScores, score_videos
from sigma_jax.models.sizes import VIDEO_SIZES, VideoSize
from sigma_jax.ops.repetition_windows import IGNORED
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.runtime.sharding import shard_batch
from sigma_jax.tasks.base import Place, task_class
from sigma_jax.tools import synthetic_severe
from sigma_jax.train import loop, setup
from sigma_jax.train.evaluate import evaluate
from sigma_jax.train.setup import build_task, resolve

SMALL = VideoSize(width=24, depth=2, num_heads=2, decoder_width=8, decoder_depth=1, decoder_num_heads=2)
SHRUNK = {"model.size": "tiny", "evals.batch_size": "8"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A few clips of both kinds, rendered and packed as the command does it."""
    folder = tmp_path_factory.mktemp("toys")
    assert synthetic_severe.main([f"--out={folder}", "--train=12", "--val=3", "--workers=0"]) == 0
    return folder


def _task(score, data, devices=1, **overrides):
    config = apply_overrides(load_config(f"configs/severe.py:score={score},size=tiny"), SHRUNK | overrides)
    task = build_task(resolve(config, str(data)), jax.devices()[:devices])
    return dataclasses.replace(task, size=SMALL)


def _batch(task, data, tmp_path, videos=8):
    loader = task.open_data(Place(str(data), tmp_path), videos, seed=3)
    try:
        host = next(loader)
    finally:
        loader.close()
    return shard_batch(task.mesh, {name: host[name] for name in task.batch_keys})


def _learn(task, batch, steps, rate=3e-3):
    """Losses of `steps` updates on one batch, the memory carried along."""
    params, optimizer = jax.jit(task.init)(jax.random.key(0)), optax.adam(rate)
    memory = task.init_memory(len(batch["video"]))

    @jax.jit
    def update(params, state, memory, step):
        rows = batch | ({"memory": memory} if memory else {})
        (loss, metrics), grads = jax.value_and_grad(task.loss, has_aux=True)(params, {}, rows, 0, step)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, metrics.get("memory", memory), loss

    state, losses = jax.jit(optimizer.init)(params), []
    for step in range(steps):
        params, state, memory, loss = update(params, state, memory, jnp.int32(step))
        losses.append(float(loss))
    return losses, memory


def test_counting_learns_and_its_windows_wander(toys, tmp_path):
    task = _task("ucf_rc", toys / "cycles", **{"objective.lifetime": "2"})
    losses, memory = _learn(task, _batch(task, toys / "cycles", tmp_path), 30)
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[2:6]), losses
    ring = memory["ring"]
    assert ring["video"].shape[:2] == (2, 8) and (np.asarray(ring["length"]) > 0).all()
    assert len(np.unique(np.asarray(ring["state"])[..., 1])) > 4


def test_several_labels_are_learned(toys, tmp_path):
    task = _task("charades", toys / "pairs")
    batch = _batch(task, toys / "pairs", tmp_path)
    assert np.asarray(batch["label"]).sum(axis=1).tolist() == [2] * 8
    losses, _ = _learn(task, batch, 40, rate=1e-2)
    assert losses[0] == pytest.approx(np.log(2), abs=0.05) and losses[-1] < 0.36, losses  # .43 without looking


@pytest.mark.parametrize("score,kind", [("ucf_rc", "cycles"), ("charades", "pairs")])
def test_one_device_and_eight_measure_and_learn_alike(toys, tmp_path, score, kind):
    found = []
    for devices in (1, 8):
        task = _task(score, toys / kind, devices, **({"objective.lifetime": "2"} if score == "ucf_rc" else {}))
        params = jax.jit(task.init)(jax.random.key(0))
        (test,) = [one for one in task.evaluators(Place(str(toys / kind), tmp_path / str(devices))) if not one.every]
        numbers = dict(test.run(params, 5))
        loss = jax.jit(task.loss)(params, {}, _batch(task, toys / kind, tmp_path), 0, jnp.int32(0))[0]
        found.append(numbers | {"loss": float(loss)})
        result = json.loads((tmp_path / str(devices) / "eval/result.json").read_text())
        assert result["model_size"] is None and result["num_videos"] == 3
        assert result["decisions"] and result["data_set"] == f"toy_{score}"
        assert result["complete"] == (score == "ucf_rc")  # three clips do not have all labels
        for video in result.get("videos", ()):
            number = int(video["key"].rsplit("c", 1)[1])
            assert video["true"] == len(render_cycles(0, number)[1]) - 1
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.slow
def test_a_counting_run_is_kept_with_its_clips_and_measured_again(toys, tmp_path, monkeypatch):
    monkeypatch.setitem(VIDEO_SIZES, "tiny", SMALL)
    data, shrunk = str(toys / "cycles"), {"batch_size": "8", "objective.lifetime": "2", "total_steps": "2"}
    shrunk |= {"optim.warmup_steps": "1", "log_every_steps": "1", "checkpoint.save_every_steps": "1"}
    config = load_config("configs/severe.py:score=ucf_rc,size=tiny")
    config = apply_overrides(config, SHRUNK | shrunk | {"evals.val_every_epochs": "0"})
    run = setup.build(config, tmp_path / "run", data)
    state = loop.train(run)
    checkpoints = loop.open_checkpoints(run)
    try:
        kept = loop.restore_or_init(run, checkpoints, loop.NOTHING)
    finally:
        checkpoints.close()
    assert int(kept.memory["turn"]) == 2 and (np.asarray(kept.memory["ring"]["length"]) > 0).all()
    jax.tree.map(np.testing.assert_array_equal, kept.memory, state.memory)
    task = setup.build_task(setup.resolve(config, data))
    evaluate(task, Place(data, tmp_path / "again"), str(tmp_path / "run"))
    first, again = (json.loads((tmp_path / name / "eval/result.json").read_text()) for name in ("run", "again"))
    assert first["videos"] == again["videos"] and first["relative_error"] == again["relative_error"]


@pytest.mark.parametrize("score,kind", [("ucf_rc", "cycles"), ("charades", "pairs")])
def test_validation_comes_as_often_as_asked_and_never_for_0(toys, tmp_path, score, kind):
    found = {}
    for epochs in ("0.0", "3.0"):
        task = _task(score, toys / kind, **{"evals.val_every_epochs": epochs})
        found[epochs] = [one.name for one in task.evaluators(Place(str(toys / kind), tmp_path))]
    assert found == {"0.0": ["test"], "3.0": ["val", "test"]}


def test_missing_videos_make_a_result_incomplete(toys, tmp_path):
    report = toys / "cycles/prepare_report.json"
    kept, task = report.read_text(), _task("ucf_rc", toys / "cycles")
    content = json.loads(kept)
    content["val"]["refused"] = [{"key": "v_Sway_g01_c9", "reason": "line 3 of Sway.txt: no such file"}]
    try:
        report.write_text(json.dumps(content))
        (test,) = task.evaluators(Place(str(toys / "cycles"), tmp_path))
    finally:
        report.write_text(kept)
    test.files.write({"relative_error": 0.1}, [], {})
    result = json.loads((tmp_path / "eval/result.json").read_text())
    assert not result["complete"] and "line 3 of Sway.txt" in result["incomplete"][0]


def test_clips_hold_what_their_labels_say(toys):
    data, spec = toys / "cycles", CyclesSpec(300, 32, num_windows=5)
    batch = next(iter(open_loader(LoaderSpec(data, "train", spec, Shuffled(0), 6))))
    labels = spec.unpack(batch["label"])
    for row in range(6):
        length = int(labels.length[row])
        assert batch["video"][row, :length].any(axis=(1, 2, 3)).all() and not batch["video"][row, length:].any()
        assert (labels.offsets[row, :, length:] == IGNORED).all() and labels.offsets[row, 0, 0] > 0
        assert (labels.windows[row, :, 2] < length).all() and labels.count[row] >= 2
    source = open_source(data, "val")
    tests = CyclesSpec(longest_clip(source), 32)
    whole = tests.unpack(next(iter(open_loader(LoaderSpec(data, "val", tests, OnePass(), 3))))["label"])
    assert whole.length.max() == tests.max_frames and whole.windows.shape == (3, 0, 3)


def test_videos_without_the_annotation_a_task_needs_are_told(toys):
    pairs, cycles = toys / "pairs", toys / "cycles"
    with pytest.raises(DataSetError, match=r"annotation is of another kind.*--format=ucfrep"):
        next(iter(open_loader(LoaderSpec(pairs, "val", CyclesSpec(300, 32), OnePass(), 1))))
    clips = _task("charades", pairs).data.clips
    with pytest.raises(DataSetError, match="another kind.*--format=charades"):
        next(iter(open_loader(LoaderSpec(cycles, "val", clips, OnePass(), 1))))
    with pytest.raises(DataSetError, match=r"labels \[8, 9\] are not in|labels \[\d"):
        few = dataclasses.replace(clips, num_classes=2)
        next(iter(open_loader(LoaderSpec(pairs, "val", few, OnePass(), 1))))
    with pytest.raises(DataSetError, match="clips have at most 5"):
        next(iter(open_loader(LoaderSpec(cycles, "val", CyclesSpec(5, 32), OnePass(), 1))))


def test_views_are_merged_by_the_maximum():
    logits = np.array([[0.0, -1.0], [2.0, -3.0], [1.0, 5.0], [0.0, 0.0]])
    rows = {
        "logits": logits, "record": np.array([0, 0, 1, 1]), "weight": np.ones(4), "key": np.zeros((4, 4), np.uint8),
        "label": np.array([[1, 0], [1, 0], [0, 1], [0, 1]]),
    }  # fmt: skip
    scores = score_videos([rows], lambda batch: batch, 2, MAXIMUM_OF_SIGMOID)
    expected = 1 / (1 + np.exp(-np.array([[2.0, -1.0], [1.0, 5.0]])))
    np.testing.assert_allclose(scores.probabilities, expected)
    assert scores.labels.tolist() == [[1, 0], [0, 1]]


def test_a_class_without_a_positive_is_named(toys):
    task = _task("charades", toys / "pairs")
    labels = np.zeros((4, 13), int)
    labels[:, :3] = [[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]]
    scores = VideoScores(np.arange(4), ("",) * 4, labels, np.random.default_rng(0).random((4, 13)), ())
    numbers, problems = task.summarize(scores)
    assert 0 < numbers["map"] < 100 and "10 of 13 classes have no positive among 4 videos" in problems[0]
    official = dataclasses.replace(task, ranking="unlabelled_last")
    assert official.summarize(scores).numbers["map"] >= numbers["map"]


@pytest.mark.parametrize(
    "score,override,text",
    [
        ("ucf_rc", {"model.num_frames": "15"}, "expected an even number"),
        ("charades", {"evals.ranking": "best"}, "ranking='best' is unknown: choose one of all_videos"),
    ],
)
def test_configs_that_cannot_be(toys, score, override, text):
    data = toys / ("cycles" if score == "ucf_rc" else "pairs")
    with pytest.raises(ValueError, match=text):
        _task(score, data, **override)


def test_frames_keep_their_shape_on_black():
    video = np.full((2, 40, 80, 3), 200, np.uint8)
    square = fit_square(video, 32)
    assert square.shape == (2, 32, 32, 3) and (square[:, 8:24] == 200).all() and not square[:, :8].any()


def test_every_score_is_one_config():
    for score in ("ssv2", "gym99", "ucf_1000", "gym_1000", "fx_s1", "ub_s1", "ucf_rc", "charades"):
        config = load_config(f"configs/severe.py:score={score},size=B")
        assert config.data.name == score and config.decisions
        assert task_class(config.task).batch_keys == ("video", "label")
