"""From shards to a measured run: train, probe, draw again; what a user sees."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from sigma_jax.data.records import RecordSource
from sigma_jax.tools import probe, report
from sigma_jax.weights import frozen
from sigma_jax.weights.formats import read_weights, write_weights
from sigma_jax.weights.frozen import Pretrained, load, untrained

CLIPS = Path(__file__).resolve().parents[1] / "data" / "clips"
VIDEO = CLIPS / "sign" / "milk.webm"


@pytest.fixture(scope="module")
def workdir(demo_run, tmp_path_factory):
    return shutil.copytree(demo_run.workdir, tmp_path_factory.mktemp("probed") / "run")


@pytest.fixture
def only_trained(monkeypatch):
    """The probe's controls, which take two thirds of its time, are left out."""
    networks = probe.networks_of
    monkeypatch.setattr(probe, "networks_of", lambda model: {"trained": networks(model)["trained"]})


def test_probe_prints_three_rows_and_report_shows_them(workdir, shapes_dir, capsys):
    assert probe.main([f"--workdir={workdir}", f"--data_dir={shapes_dir}", "--batch_size=40"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((workdir / "probe.json").read_text())["rows"]
    assert [row["features"] for row in rows] == ["trained", "random weights", "raw 8x8x8 pixels"]
    assert f"names the motion / shape / joint of {rows[0]['knn/motion']:.0f} / " in printed
    for row in rows:
        assert row["features"] in printed and 0 <= row["knn/motion"] <= 100
        assert set(row) == {"features"} | {f"{m}/{f}" for m in ("knn", "linear") for f in ("motion", "shape", "joint")}
    kept = json.loads((workdir / "probe.json").read_text())
    assert "k=20; one central clip, centre crop, 4 frames (dense, stride 1), 32 pixels" in printed
    assert (
        kept["k"] == 20
        and kept["bank"] == {"split": "bank", "clips": 120}
        and kept["test"]["clips"] == len(RecordSource(shapes_dir, "val"))
    )
    assert kept["weights"]["hash"] == read_weights(workdir).digest()
    assert (
        report.main([f"--workdir={workdir}", f"--data_dir={shapes_dir}", f"--videos={CLIPS}", f"--video={VIDEO}"]) == 0
    )
    page = (workdir / "report.html").read_text()
    assert "random weights" in page and "the 'command line'" in page.replace("&#x27;", "'")
    assert page.count("<img") == 7  # curves, clips still and moving, prototypes, videos still and moving, one video
    assert "milk.webm: the 25 tubes nearest" in page


def test_checkpoints_may_lie_elsewhere(workdir, shapes_dir, tmp_path, only_trained):
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "bucket")
    words = [f"--workdir={tmp_path / 'run'}", f"--data_dir={shapes_dir}", f"--checkpoint_dir={tmp_path / 'bucket'}"]
    assert probe.main([*words, "--batch_size=40"]) == 0
    assert report.main(words) == 0
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_report_without_a_checkpoint_says_so(shapes_dir, tmp_path, workdir, capsys):
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    assert report.main([f"--workdir={tmp_path}", f"--data_dir={shapes_dir}"]) == 1
    assert "train first" in capsys.readouterr().err


def test_any_weights_are_probed_and_their_features_kept(
    workdir, shapes_dir, tmp_path, only_trained, monkeypatch, capsys
):
    write_weights(tmp_path / "w.npz", read_weights(workdir), "npz")
    words = [f"--data_dir={shapes_dir}", "--batch_size=40", f"--cache={tmp_path / 'features'}"]
    assert probe.main([*words, f"--init={tmp_path / 'w.npz'}", f"--out={tmp_path / 'out.json'}"]) == 0
    assert probe.main([*words, f"--workdir={workdir}"]) == 0
    rows = [json.loads(path.read_text())["rows"] for path in (tmp_path / "out.json", workdir / "probe.json")]
    assert rows[0] == rows[1]
    monkeypatch.setattr(Pretrained, "features", None)  # nothing is computed again
    assert probe.main([*words, f"--init={tmp_path / 'w.npz'}", "--k=500"]) == 0
    assert "k=120;" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        probe.main([f"--data_dir={shapes_dir}"])


def test_equal_arrays_with_another_number_of_heads_are_another_model(workdir, shapes_dir, tmp_path, only_trained):
    weights, cache = read_weights(workdir), tmp_path / "features"
    for num_heads in (weights.sizes["num_heads"], 1):
        write_weights(tmp_path / "w.npz", replace(weights, sizes=weights.sizes | {"num_heads": num_heads}), "npz")
        words = [f"--init={tmp_path / 'w.npz'}", f"--data_dir={shapes_dir}", "--batch_size=40", f"--cache={cache}"]
        assert probe.main(words) == 0
    first, second = (json.loads(path.read_text()) for path in sorted(cache.glob("*.json"))[:2])
    assert len(list(cache.glob("*.npz"))) == 4 and first["weights"] == second["weights"], "two splits, two models"


def test_models_of_one_form_share_compiled_functions(workdir):
    video = np.zeros((3, 4, 32, 32, 3), np.uint8)
    first, random = np.asarray(load(workdir).features(video)), untrained(load(workdir))
    sizes = frozen._video_features._cache_size, frozen._random_params.cache_info
    compiled = [size() for size in sizes]
    np.testing.assert_array_equal(load(workdir).features(video), first)
    assert np.abs(random.features(video) - first).max() > 0
    assert np.abs(untrained(load(workdir), 1).features(video) - random.features(video)).max() > 0
    assert (sizes[0](), sizes[1]().misses) == (compiled[0], compiled[1].misses)


def test_random_weights_are_those_that_the_run_started_with(demo_run):
    first = demo_run.program.init_state().params["encoder"]
    random = untrained(load(demo_run.workdir), demo_run.settings.seed).params["encoder"]
    assert jax.tree.all(jax.tree.map(np.array_equal, random, jax.device_get(first)))
