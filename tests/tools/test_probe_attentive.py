"""Tokens once, a grid of probes, one number: the command on rendered shapes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from sigma_jax.data.source import open_source
from sigma_jax.evals.attentive_grid import GridSettings
from sigma_jax.runtime.config import load_config
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tasks.base import run_config
from sigma_jax.tools import probe_attentive
from sigma_jax.weights.frozen import Pretrained
from sigma_jax.weights.weights_file import write_npz
from tests.weights.weights_samples import sample

SMALL = {
    "data.split": "bank",
    "data.frame_stride": "1",
    "data.num_workers": "0",
    "grid.learning_rates": "0.01,0.0001",
    "grid.weight_decays": "0.1",
    "grid.epochs": "1",
    "grid.depth": "1",
    "grid.num_heads": "2",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "video.npz"
    content = sample("pretrain_dino_swav")
    content.sizes.update(image_size=32, num_frames=8)
    write_npz(path, content)
    return path


@pytest.fixture(scope="module")
def probe(weights, shapes_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("probe")

    def run(name="out", **values):
        words = [f"--init={weights}", f"--data_dir={shapes_dir}", f"--cache={root / 'tokens'}", f"--out={root / name}"]
        values = SMALL | {key.replace("__", "."): value for key, value in values.items()}
        status = probe_attentive.main([*words, *(f"--config.{key}={value}" for key, value in values.items())])
        path = root / name / "result.json"
        return status, json.loads(path.read_text()) if status == 0 else None

    return run


def test_the_grid_and_the_chosen_head(probe, capsys):
    status, result = probe()
    assert status == 0 and len(result["grid"]) == 2 and result["metric"] == "top1"
    assert result["splits"] == {"train": "bank", "val": "every 10th of bank", "test": "val"}
    assert result["clips"]["train"] > result["clips"]["val"] > 0 and 0 <= result["chosen"]["test"] <= 100
    assert result["chosen"]["val"] == max(row["val"] for row in result["grid"])
    assert result["config"]["grid"]["learning_rates"] == [0.01, 0.0001] and result["view"]["frame_stride"] == 1
    printed = capsys.readouterr().out
    assert "chosen: lr" in printed and "top1 on val" in printed
    assert "2 times the operations of one head on the stored tokens; if the encoder" in printed
    assert "once for all heads" in printed  # depth 1


def test_tokens_are_computed_once(probe, monkeypatch):
    probe()
    monkeypatch.setattr(Pretrained, "features", None)
    assert probe(grid__epochs=2)[0] == 0


def test_segments_crops_and_few_shots(probe):
    status, result = probe(
        "few", data__num_segments=2, data__num_crops=3, few_shot__videos_per_class=1, few_shot__seeds="0,1"
    )
    assert status == 0 and result["shots"] == 1 and len(result["runs"]) == 2
    assert result["view"]["num_segments"] == 2 and result["mean"] == pytest.approx(
        np.mean([run["chosen"]["test"] for run in result["runs"]])
    )


def test_several_labels(probe, shapes_dir, tmp_path, capsys):
    lines, lists = [], tmp_path / "labels.txt"
    for split in ("bank", "val"):
        source = open_source(shapes_dir, split)
        lines += [f"{source[i].key} {source[i].label % 3} {3 + source[i].label % 2}" for i in range(len(source))]
    lists.write_text("\n".join(lines))
    status, result = probe("many", data__label_lists=lists)
    assert status == 0 and result["metric"] == "mAP" and result["chosen"]["test"] > 0
    lists.write_text("\n".join(lines[1:]))
    assert probe(data__label_lists=lists)[0] == 1
    assert "has no line for" in capsys.readouterr().err
    lists.write_text("video one two")
    assert probe(data__label_lists=lists)[0] == 1
    assert "labels.txt:1" in capsys.readouterr().err


def test_val_may_be_a_split_of_its_own(probe):
    status, result = probe("val", data__val_split="val")
    assert status == 0 and "test" not in result["chosen"] and result["splits"]["val"] == "val"


@pytest.mark.parametrize("spec", ["", ":dataset=ssv2", ":dataset=cifar100"])
def test_the_config_is_the_published_grid(spec):
    settings = probe_attentive.read_settings(f"configs/attentive_grid.py{spec}", {})
    assert settings.grid == GridSettings()  # JAX runs on the CPU here: float32
    recipe = load_config(f"configs/linear_probe.py{spec or ':dataset=folder'}").data
    assert all(
        getattr(settings.data, name) == recipe[name] for name in ("name", "sampling", "test_split", "short_side")
    )


@pytest.mark.parametrize(
    "name,value,said",
    [
        ("data.num_crops", 0, "data.num_crops=0"),
        ("few_shot.seeds", "1,1", "each once"),
        ("compute.dtype", "float8", "choose one of auto"),
        ("grid.depth", 0, "depth=0"),
    ],
)
def test_values_that_make_no_grid(name, value, said):
    with pytest.raises(InvalidValue, match=said):
        probe_attentive.read_settings("configs/attentive_grid.py", {name: str(value)})


def test_each_command_refuses_the_configs_of_the_other(capsys):
    assert probe_attentive.main(["--config=configs/demo.py", "--init=a", "--data_dir=b", "--out=c"]) == 1
    assert "configs/attentive_grid.py" in capsys.readouterr().err
    with pytest.raises(InvalidValue, match=r"tools\.probe_attentive"):
        run_config("configs/attentive_grid.py", {})


@pytest.mark.parametrize(
    "kind,grid,sizes,published",
    [
        ("encoder", (8, 14, 14), {"width": 768, "depth": 12}, 180e9),  # VideoMAE, ViT-B (Tong et al. 2022)
        ("teacher", (1, 14, 14), {"width": 384, "depth": 12, "num_registers": 0, "num_frames": 1}, 4.6e9),  # ViT-S
    ],
)
def test_operations_of_the_encoder_are_the_published_ones(kind, grid, sizes, published):
    """Papers count multiply-adds, of one clip of 16 x 224 x 224 or one image of 224 x 224."""
    frames_per_step = 2 if kind == "encoder" else 1
    about = {"weights": SimpleNamespace(kind=kind, sizes=sizes), "frames_per_step": frames_per_step, "token_size": 16}
    model = SimpleNamespace(**about, token_grid=lambda shape: grid)
    assert probe_attentive.clip_flops(model) / 2 == pytest.approx(published, rel=0.01)
