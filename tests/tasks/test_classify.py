"""Finetuning, probes and the multi-view test through the real trainer; what must stop with a sentence."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sigma_jax import main as command
from sigma_jax.checkpoints.manager import find_checkpoint, read_meta
from sigma_jax.data.metadata import label_hash
from sigma_jax.data.records import DataSetError, RecordSource, find_shards
from sigma_jax.evals.multi_view import MultiViewTest
from sigma_jax.models.sizes import VideoSize
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD, TubeGrid
from sigma_jax.report.run import write_report
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.runtime.durations import read_duration
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.tasks.base import Place
from sigma_jax.tasks.classify import ClassificationTask
from sigma_jax.train import loop, setup
from sigma_jax.train.evaluate import evaluate
from sigma_jax.train.initial_weights import InitFrom, initialised
from sigma_jax.train.optimizer import evaluated_params, layer_scales, with_average
from sigma_jax.train.plan import resolve_plan
from sigma_jax.train.program import build_program
from sigma_jax.weights.formats import read_weights, write_weights
from sigma_jax.weights.torch_weights import from_torch
from sigma_jax.weights.weights_file import WeightsMismatch
from tests.weights.weights_samples import sample

GOLDEN = Path(__file__).parents[1] / "goldens" / "finetune_cls.npz"
SMALL = {
    "model.num_frames": "4",
    "data.split": "bank",
    "data.num_workers": "0",
    "batch_size": "8",
    "total_steps": "2",
    "optim.warmup_steps": "1",
    "optim.base_lr": "0.1",
    "evals.num_views": "2",
    "evals.num_crops": "1",
    "evals.batch_size": "40",
    "log_every_steps": "1",
    "checkpoint.save_every_steps": "2",
}
PROBE = "configs/linear_probe.py:dataset=folder,size=tiny"


def small(spec: str = PROBE, **changes):
    return apply_overrides(load_config(spec), SMALL | changes)


@pytest.fixture(scope="module")
def probe(shapes_dir, tmp_path_factory, devices):
    """(run, first parameters, last state) of a probe trained for two steps."""
    workdir = tmp_path_factory.mktemp("probe")
    run = setup.build(small(), workdir, str(shapes_dir))
    first = jax.device_get(run.init_state().params)
    state = loop.train(run)
    assert write_report(run.trained(state), run.place).stat().st_size > 1000
    return run, first, state


def num_val(run) -> int:
    return len(RecordSource(run.place.data_dir, "val"))


def again(config, workdir: Path, data_dir, init: Path) -> None:
    """`--mode=eval`."""
    evaluate(setup.build_task(setup.resolve(config, str(data_dir))), Place(str(data_dir), workdir), str(init))


def files_of(folder: Path) -> dict:
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def test_a_frozen_encoder_keeps_its_bits_and_the_head_learns(probe):
    _, first, state = probe
    last = jax.device_get(state.params)
    for before, after in zip(*map(jax.tree.leaves, (first["encoder"], last["encoder"])), strict=True):
        np.testing.assert_array_equal(before.view(np.uint32), after.view(np.uint32))
    for part in ("head", "norm"):
        assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first[part], last[part])), strict=True))


def test_result_says_how_it_was_measured(probe):
    run, _, _ = probe
    result = json.loads((run.workdir / "eval" / "result.json").read_text())
    assert result["complete"] and result["num_videos"] == result["num_videos_in_split"] == num_val(run)
    assert (result["split"], result["num_views"], result["num_crops"]) == ("val", 2, 1)
    assert result["merge"] == "softmax per view, arithmetic mean over views"
    assert result["label_map_hash"] == run.task.data.label_hash and len(result["checkpoint"]["hash"]) == 16
    assert len(result["decisions"]) >= 5 and {"top1", "top5", "mean_per_class"} <= result.keys()
    with np.load(run.workdir / "eval" / "scores.npz") as scores:
        assert scores["probabilities"].shape == (num_val(run), run.task.num_classes)
        np.testing.assert_allclose(scores["probabilities"].sum(axis=1), 1, atol=1e-5)
        top1 = 100 * (scores["probabilities"].argmax(axis=1) == scores["labels"]).mean()
        assert top1 == pytest.approx(result["top1"]) and scores["keys"][0].endswith(".mp4")
    assert (run.workdir / "eval" / "confusion.png").stat().st_size > 1000
    assert (run.workdir / "best").is_dir()
    lines = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert {"val/top1", "test/top1"} <= {name for line in lines for name in line}


def test_a_test_that_breaks_loses_nothing_and_is_made_up_for(probe, shapes_dir, tmp_path, monkeypatch):
    """The last step is saved before it; a restart measures what is missing, and nothing twice."""
    shutil.copytree(probe[0].workdir, tmp_path / "run")
    for path in ("measured.json", "eval/result.json"):
        (tmp_path / "run" / path).unlink()
    ran, test = [], MultiViewTest.run

    def run(self, params, step):
        ran.append(self.name)
        if len(ran) == 2:
            raise RuntimeError("no memory")
        return test(self, params, step)

    monkeypatch.setattr(MultiViewTest, "run", run)
    again = setup.build(small(), tmp_path / "run", str(shapes_dir))
    with pytest.raises(RuntimeError, match="no memory"):
        loop.train(again)
    assert find_checkpoint(tmp_path / "run").name == "2" and ran == ["val", "test"]
    for _ in range(2):
        loop.train(setup.build(small(), tmp_path / "run", str(shapes_dir)))
    assert ran == ["val", "test", "test"] and (tmp_path / "run" / "eval" / "result.json").exists()


def test_a_checkpoint_knows_its_data(probe):
    data = read_meta(probe[0].workdir)["data"]
    assert (data["split"], data["records"]) == ("bank", 120) and data["classes"] == list(probe[0].loader.source.classes)


def test_eval_mode_repeats_the_number_and_only_reads(probe, shapes_dir, tmp_path):
    run, _, _ = probe
    before = files_of(run.workdir)
    words = [f"--config={PROBE}", "--mode=eval", f"--init={run.workdir}", f"--workdir={tmp_path}"]
    words += [f"--data_dir={shapes_dir}", "--platform=cpu", "--config.mesh.fsdp=2"]
    words += [f"--config.{name}={value}" for name, value in SMALL.items()]
    assert command.main(["main", *words]) == 0
    assert files_of(run.workdir) == before
    trained, again = (json.loads((f / "eval" / "result.json").read_text()) for f in (run.workdir, tmp_path))
    assert again["checkpoint"].pop("source") != trained["checkpoint"].pop("source")
    assert again == trained


def test_one_device_or_eight(probe, shapes_dir, devices):
    run, _, state = probe
    found = []
    for chosen in (devices, devices[:1], devices[:3]):
        mesh = make_mesh(devices=chosen)
        task = dataclasses.replace(run.task, mesh=mesh)
        params = jax.device_put(jax.device_get(state.params), jax.sharding.NamedSharding(mesh, jax.P()))
        (test,) = (each for each in task.evaluators(Place(str(shapes_dir), run.workdir)) if each.every is None)
        found.append(test.score(params)[0])
    for other in found[1:]:
        assert other.keys == found[0].keys and (other.labels == found[0].labels).all()
        assert (other.probabilities.argmax(axis=1) == found[0].probabilities.argmax(axis=1)).all()
        np.testing.assert_allclose(other.probabilities, found[0].probabilities, rtol=0, atol=1e-6)


def test_an_unreadable_video_makes_the_result_incomplete(probe, shapes_dir, tmp_path):
    run, _, _ = probe
    data = tmp_path / "data"
    shutil.copytree(shapes_dir, data)
    shard = find_shards(data, "val")[0]
    content = bytearray(shard.read_bytes())
    content[200] ^= 0xFF  # inside the first record
    shard.write_bytes(content)
    again(small(), tmp_path, data, run.workdir)
    result = json.loads((tmp_path / "eval" / "result.json").read_text())
    assert not result["complete"] and result["num_videos"] == num_val(run) - 1
    assert result["num_videos_in_split"] == num_val(run)
    assert result["unreadable"][0]["record"] == 0 and "checksum" in result["unreadable"][0]["reason"]


def with_names(run, path: Path, names, order=slice(None), form: str = "npz") -> Path:
    """The run's weights whose head has other names for its rows, which `order` moves."""
    weights = read_weights(run.workdir)
    head = {name: array[..., order] for name, array in weights.params["head"].items()}
    sizes = (
        weights.sizes | {"class_names": tuple(names)} | ({"positions": "sincos_1d"} if form in ("pth", "hf") else {})
    )
    write_weights(path, dataclasses.replace(weights, params=weights.params | {"head": head}, sizes=sizes), form)
    return path


def test_classes_in_another_order_are_matched_by_name(probe, shapes_dir, tmp_path):
    run, _, _ = probe
    names = run.facts["class_names"]
    path = with_names(run, tmp_path / "w.npz", reversed(names), slice(None, None, -1))
    again(small(), tmp_path, shapes_dir, path)
    result = json.loads((tmp_path / "eval" / "result.json").read_text())
    head = {"label_map_hash": label_hash(list(reversed(names))), "class_order": "moved"}
    assert result["checkpoint"]["head"] == head and result["label_map_hash"] == label_hash(names)
    assert result["checkpoint"]["hash"] == read_weights(path).digest()
    assert "another order" in result["checkpoint"]["notes"][-1]
    scores = [np.load(folder / "eval" / "scores.npz")["probabilities"] for folder in (tmp_path, run.workdir)]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_results_and_files_have_one_hash(probe):
    run, _, state = probe
    trained = json.loads((run.workdir / "eval" / "result.json").read_text())["checkpoint"]
    assert trained["hash"] == read_weights(run.workdir).digest()
    assert trained["head"] == {"label_map_hash": label_hash(run.facts["class_names"]), "class_order": "same"}


@pytest.mark.parametrize("form", ["npz", "pth", "hf", "orbax"])
def test_other_classes_stop_in_every_format(probe, shapes_dir, tmp_path, form):
    """Also a Hugging Face folder is the --init of --mode=eval."""
    run, _, _ = probe
    names = run.facts["class_names"]
    path = with_names(run, tmp_path / "w", ["another", *names[1:]], form=form)
    changes = {"model.positions": "sincos_1d"} if form in ("pth", "hf") else {}
    with pytest.raises(WeightsMismatch, match=f"only in the data: {names[0]}; only in the head: another"):
        again(small(**changes), tmp_path / "run", shapes_dir, path)
    if form == "npz":
        with pytest.raises(WeightsMismatch, match=r"train a head for this one \(--allow_missing=head"):
            initialised(lambda: None, run.task, InitFrom(str(path)), run.facts)()


def test_checkpoints_that_do_not_fit(probe, shapes_dir, tmp_path):
    run, _, _ = probe
    with pytest.raises(WeightsMismatch, match="choose size=tiny"):
        again(small(**{"model.size": "S"}), tmp_path, shapes_dir, run.workdir)
    with pytest.raises(WeightsMismatch, match=r"positions is sincos_3d in .*--config\.model\.positions=sincos_3d"):
        again(small(**{"model.positions": "sincos_1d"}), tmp_path, shapes_dir, run.workdir)
    with pytest.raises(WeightsMismatch, match=r"num_frames is 4 in .*--config\.model\.num_frames=4"):
        again(small(**{"model.num_frames": "8"}), tmp_path, shapes_dir, run.workdir)
    write_weights(tmp_path / "w.npz", sample("pretrain_mlp_swav"), "npz")
    with pytest.raises(WeightsMismatch, match=r"w\.npz.* \(pretrain\) is a model without a classifier"):
        again(small(), tmp_path, shapes_dir, tmp_path / "w.npz")
    with pytest.raises(ValueError, match="which is only read"):
        inside = run.workdir / "checkpoints" / "2" / "state"
        again(small(), inside, shapes_dir, run.workdir)


def test_a_head_of_other_classes_needs_permission(probe, shapes_dir, tmp_path):
    run, _, state = probe
    other = dataclasses.replace(run.task, num_classes=7)
    compiled = build_program(run.settings, other, run.plan)
    start = initialised(compiled.init_state, other, InitFrom(str(run.workdir)), run.facts)
    with pytest.raises(WeightsMismatch, match=r"(?s)head/kernel.*--allow_missing"):
        start()
    params = initialised(compiled.init_state, other, InitFrom(str(run.workdir), ("head",)), run.facts)().params
    assert params["head"]["kernel"].shape[1] == 7
    np.testing.assert_array_equal(params["norm"]["scale"], state.params["norm"]["scale"])


def test_data_that_do_not_fit(shapes_dir, tmp_path):
    with pytest.raises(DataSetError, match="ucf101 has 101 classes, this folder [0-9]+"):
        setup.build(small("configs/linear_probe.py:dataset=ucf101,size=tiny"), tmp_path, str(shapes_dir))
    with pytest.raises(DataSetError, match=r"has label -1, expected 0\.\.[0-9]+"):
        next(setup.build(small(**{"data.split": "train"}), tmp_path, str(shapes_dir)).loader)
    with pytest.raises(DataSetError, match="no split 'test'"):
        setup.build(small(**{"data.split": "test"}), tmp_path, str(shapes_dir))


def test_copies_share_frames_and_order_does_not_depend_on_workers(shapes_dir, tmp_path):
    config = small(**{"data.repeats": "2", "data.sampling": "uniform", "data.flip": "0.5", "data.min_area": "0.25"})
    batch = next(setup.build(config, tmp_path, str(shapes_dir)).loader)
    record, video = batch["record"].reshape(8, 2), batch["video"].reshape(8, 2, 4, 32, 32, 3)
    assert (record[:, 0] == record[:, 1]).all() and len(set(record[:, 0].tolist())) == 8
    assert any((pair[0] != pair[1]).any() for pair in video)
    config = apply_overrides(config, {"data.num_workers": "1"})
    with_worker = setup.build(config, tmp_path, str(shapes_dir)).loader
    np.testing.assert_array_equal(next(with_worker)["video"], batch["video"])
    with_worker.close()


def test_golden_losses_through_the_task():
    with np.load(GOLDEN) as file:
        arrays = dict(file)
    config = json.loads(str(arrays["config_json"]))
    task = ClassificationTask(
        mesh=make_mesh(devices=jax.devices()[:1]),
        grid=TubeGrid(config["frames"], config["img"], (config.get("tubelet", 2), config["patch"], config["patch"])),
        size=VideoSize(config["ed"], config["depth"], config["heads"], 0, 1),
        num_classes=config["nc"],
        drop_path=0.0,
        mixing=None,
        erase_probability=0.0,
    )
    named = {name[6:]: value for name, value in arrays.items() if name.startswith("param:")}
    params = jax.tree.map(jnp.asarray, from_torch(named, "classifier"))
    video = np.moveaxis(arrays["video"], 1, -1) * np.float32(PIXEL_STD) + np.float32(PIXEL_MEAN)
    loss, metrics = task.loss(params, {}, {"video": jnp.asarray(video), "label": jnp.asarray(arrays["y"])}, 0, 0)
    assert float(loss) == pytest.approx(float(arrays["loss_smooth0.1"]), abs=2e-5)
    assert 0 <= float(metrics["train_top1"]) <= 100


def test_a_finetuning_step_reaches_everything(shapes_dir, tmp_path, devices):
    everything = {"objective.mixes": "true", "objective.erase_probability": "0.25", "data.rand_augment": "7,4,0.5"}
    config = small("configs/finetune.py:dataset=folder,size=tiny", **everything, **{"optim.ema_decay": "0.9"})
    run = setup.build(config, tmp_path, str(shapes_dir))
    batch = next(run.loader)
    run.loader.close()
    first = jax.device_get(run.init_state().params)
    state = run.init_state()
    for _ in range(2):  # the first step has the start of the warm-up as its rate
        state, metrics = run.program.step(state, {}, loop.to_devices(run, batch))
    assert float(metrics["loss"]) == pytest.approx(np.log(run.task.num_classes), abs=0.3)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), first, jax.device_get(state.params))
    assert all(jax.tree.leaves(changed))
    assert jax.tree.structure(evaluated_params(state.params, state.opt_state)) == jax.tree.structure(first)


def test_layer_decay_factors():
    params = {
        "encoder": {"embed": {"kernel": jnp.zeros((3, 4))}, "blocks": {"mlp": jnp.zeros((12, 2))}},
        "norm": {"scale": jnp.zeros(4)},
        "head": {"kernel": jnp.zeros((4, 2))},
    }
    scales = layer_scales(params, 0.75)
    assert float(scales["encoder"]["embed"]["kernel"]) == pytest.approx(0.023757, abs=1e-6)
    blocks = scales["encoder"]["blocks"]["mlp"].ravel()
    assert (blocks[0], blocks[11]) == (pytest.approx(0.031676, abs=1e-6), pytest.approx(0.75))
    assert scales["norm"]["scale"] == scales["head"]["kernel"] == 1.0


@pytest.mark.parametrize(
    ("spec", "lengths"),
    [("configs/finetune.py:dataset=ssv2", (5278, 211_120, 26_390)), ("configs/linear_probe.py", (439, 13_170, 2195))],
)
def test_schedule_lengths_on_ssv2(spec, lengths):
    config = load_config(spec)
    steps = 168_913 // config.batch_size
    total = read_duration(config, "total").in_steps(steps)
    warmup = read_duration(config.optim, "warmup").in_steps(steps, total)
    assert (steps, total, warmup) == lengths


def test_averaged_weights():
    optimizer = with_average(optax.sgd(1.0), 0.9)
    params = {"w": jnp.ones(2)}
    state = optimizer.init(params)
    assert evaluated_params(params, state) is params  # nothing to average yet
    for _ in range(2):
        updates, state = optimizer.update({"w": jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(evaluated_params(params, state)["w"], 0.9 * 0.0 + 0.1 * -1.0, rtol=1e-6)
    assert evaluated_params(params, optax.EmptyState()) is params


SETS = ("k400", "ssv2", "ucf101", "hmdb51", "folder")
SPECS = [f"configs/finetune.py:dataset={name}" for name in SETS] + [
    f"configs/{kind}.py:dataset={name}"
    for kind in ("linear_probe", "attentive_probe")
    for name in (*SETS, "imagenet1k", "cifar100")
]


@pytest.mark.parametrize("spec", SPECS)
def test_every_config_makes_a_plan(spec):
    config = apply_overrides(load_config(spec), {"data.num_classes": "17"})
    task = setup.build_task(config, jax.devices()[:1])
    plan = resolve_plan(setup.train_settings(config), task, 100_000)
    assert plan.tubes_visible == 1568 and plan.peak_lr == pytest.approx(config.optim.base_lr * config.batch_size / 256)
    assert plan.micro_batch_per_device % 2 == 0  # mixup pairs clips
    assert len(config.decisions) >= 5
    is_probe = "probe" in spec
    assert task.trainable("encoder/blocks/mlp/fc1/kernel") != is_probe and task.trainable("head/kernel")


def test_recipes_of_the_released_scripts():
    k400, ssv2 = (load_config(f"configs/finetune.py:dataset={name}") for name in ("k400", "ssv2"))
    for config in (k400, ssv2):
        assert (config.optim.base_lr, config.batch_size, config.optim.layer_decay) == (1e-3, 32, 0.75)
        assert (config.optim.min_lr, config.optim.warmup_lr, config.model.drop_path) == (1e-6, 1e-6, 0.1)
        assert config.optim.base_lr * config.batch_size / 256 == 1.25e-4
    assert (k400.total_epochs, k400.evals.num_views, k400.evals.num_crops, k400.data.flip) == (100, 5, 3, 0.5)
    assert (ssv2.total_epochs, ssv2.evals.num_views, ssv2.evals.num_crops, ssv2.data.flip) == (40, 2, 3, 0.0)
    assert (k400.data.sampling, k400.data.frame_stride, ssv2.data.sampling) == ("dense", 4, "uniform")
    probe = load_config("configs/linear_probe.py")
    assert probe.data.name == "ssv2" and probe.optim.base_lr * probe.batch_size / 256 == 1.5e-3
    assert (probe.data.repeats, probe.total_epochs, probe.model.drop_path) == (2, 30, 0.1)
