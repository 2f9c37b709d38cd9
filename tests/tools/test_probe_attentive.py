"""Tokens once, a grid of probes, one number: the command on rendered shapes."""

import json

import numpy as np
import pytest

from sigma_jax.data.source import open_source
from sigma_jax.tools import probe_attentive
from sigma_jax.weights.frozen import Pretrained
from sigma_jax.weights.weights_file import write_npz
from tests.weights.weights_samples import sample

SMALL = ("--learning_rates=0.01,0.0001", "--weight_decays=0.1", "--epochs=1", "--depth=1", "--probe_heads=2")


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

    def run(*flags, name="out"):
        words = [f"--init={weights}", f"--data_dir={shapes_dir}", f"--cache={root / 'tokens'}", f"--out={root / name}"]
        status = probe_attentive.main([*words, "--train_split=bank", "--frame_stride=1", *SMALL, *flags])
        path = root / name / "result.json"
        return status, json.loads(path.read_text()) if status == 0 else None

    return run


def test_the_grid_and_the_chosen_head(probe, capsys):
    status, result = probe()
    assert status == 0 and len(result["grid"]) == 2 and result["metric"] == "top1"
    assert result["splits"] == {"train": "bank", "val": "every 10th of train", "test": "val"}
    assert result["clips"]["train"] > result["clips"]["val"] > 0 and 0 <= result["chosen"]["test"] <= 100
    assert result["chosen"]["val"] == max(row["val"] for row in result["grid"])
    printed = capsys.readouterr().out
    assert "chosen: lr" in printed and "top1 on val" in printed


def test_tokens_are_computed_once(probe, monkeypatch):
    probe()
    monkeypatch.setattr(Pretrained, "features", None)
    assert probe("--epochs=2")[0] == 0


def test_segments_crops_and_few_shots(probe):
    status, result = probe("--num_segments=2", "--num_crops=3", "--few_shot=1", "--few_shot_seeds=0,1", name="few")
    assert status == 0 and result["shots"] == 1 and len(result["runs"]) == 2
    assert result["view"]["num_segments"] == 2 and result["mean"] == pytest.approx(
        np.mean([run["chosen"]["test"] for run in result["runs"]])
    )


def test_several_labels(probe, shapes_dir, tmp_path, capsys):
    lines = []
    for split in ("bank", "val"):
        source = open_source(shapes_dir, split)
        lines += [f"{source[i].key} {source[i].label % 3} {3 + source[i].label % 2}" for i in range(len(source))]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    status, result = probe(f"--multi_label={tmp_path / 'labels.txt'}", name="many")
    assert status == 0 and result["metric"] == "mAP" and result["chosen"]["test"] > 0
    (tmp_path / "labels.txt").write_text("\n".join(lines[1:]))
    assert probe(f"--multi_label={tmp_path / 'labels.txt'}")[0] == 1
    assert "has no line for" in capsys.readouterr().err
    (tmp_path / "labels.txt").write_text("video one two")
    assert probe(f"--multi_label={tmp_path / 'labels.txt'}")[0] == 1
    assert "labels.txt:1" in capsys.readouterr().err


def test_val_may_be_a_split_of_its_own(probe):
    status, result = probe("--val_split=val", name="val")
    assert status == 0 and "test" not in result["chosen"] and result["splits"]["val"] == "val"
