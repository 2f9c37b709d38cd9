"""The benchmark command: its rows, its peers, its errors; and the model FLOPs behind MFU."""

import json

import numpy as np
import pytest

from sigma_jax.evals.segmentation.matching import match_clip
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.tools import bench
from sigma_jax.tools.benchmarks import peer_segmentation, peers
from sigma_jax.tools.benchmarks.segmentation_clips import BenchSpec
from sigma_jax.train.flops import mfu, peak_flops
from sigma_jax.train.setup import build_task

KEYS = {"median_s", "clips_per_s", "batch", "peak_rss_mb", "mfu", "platform"}
TINY = {"model.num_frames": "4", "model.image_size": "32", "model.tube_size": "2,8,8", "objective.num_prototypes": "16"}


def flops_of(spec: str, **overrides: str) -> dict[str, float]:
    return build_task(apply_overrides(load_config(spec), overrides)).flops()


@pytest.mark.parametrize(
    "spec,parts,total",
    [  # GFLOP per clip, counted by hand from the layer shapes (two decimals are rounded away)
        ("size=S", {"embed": 3.7, "encoder": 21.8, "decoder": 39.8, "projection": 23.3, "scores": 10.8}, 99.4),
        ("size=B,target=dino", {"embed": 7.4, "encoder": 84.4, "teacher": 281.0, "scores": 26.0}, 513.4),
        ("size=B,target=dino,teacher=dinov2_b14", {"teacher": 376.6}, 609.0),
        ("size=L", {"encoder": 297.5, "decoder": 180.4}, 521.8),
    ],
)
def test_model_flops(spec, parts, total):
    flops = flops_of(f"configs/k400.py:{spec}")
    for part, expected in parts.items():
        assert flops[part] / 1e9 == pytest.approx(expected, abs=0.06), part
    assert sum(flops.values()) / 1e9 == pytest.approx(total, abs=0.06)


def test_reconstruction_has_no_scores():
    flops = flops_of("configs/k400.py:target=pixel")
    assert flops["scores"] == flops["projection"] == flops["teacher"] == 0 < flops["decoder"]


def test_mfu_needs_a_known_peak():
    class Device:
        device_kind = "NVIDIA H200"

    assert mfu(513.4e9, 578.0, [Device]) == pytest.approx(0.30, abs=0.001)
    assert mfu(513.4e9, 578.0, [Device, Device]) == pytest.approx(0.15, abs=0.001)
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5p") == 459e12
    assert peak_flops("cpu") is None


def run_bench(capsys, *words: str) -> tuple[int, str, str]:
    status = bench.main(["bench", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    "words",
    [
        ("objective", "--tokens=64", "--prototypes=16", "--iterations=2"),
        ("segmentation", "--clips=2", "--clusters=3", "--side=32", "--width=8"),
        ("attention", "--shape=1,16,2,8"),
        ("step", "--config=configs/k400.py:size=tiny", "--batch=8", *(f"--config.{k}={v}" for k, v in TINY.items())),
    ],
    ids=lambda words: words[0],
)
def test_rows_have_the_promised_numbers(capsys, words):
    status, out, err = run_bench(capsys, *words, "--repeats=2", "--warmup=1", "--json")
    assert status == 0, err
    row = json.loads(out)
    assert row.keys() >= KEYS
    assert row["platform"] == "cpu" and row["mfu"] is None
    assert 0 < row["p10_s"] <= row["median_s"] <= row["p90_s"]
    if words[0] == "step":
        assert row["clips_per_s"] == pytest.approx(8 / row["median_s"]) and row["batch"] == 8


@pytest.mark.parametrize(
    "words,message",
    [
        ((), "expected a mode"),
        (("fly",), "got 'fly'"),
        (("attention", "--shape=1,2"), "B,N,H,d"),
        (("attention", "--shape=1,8,1,8", "--backend=cudnn"), "choose 'auto', 'xla' or 'lean'"),
        (("attention", "--shape=1,8,1,8", "--backend=flash3"), "is unknown: choose one of"),
        (("step", "--config=configs/k400.py", "--config.compute.remat=some"), "compute.remat"),
        (("objective", "--tokns=3"), "tokns"),
    ],
)
def test_bad_input_is_explained(capsys, words, message):
    status, out, err = run_bench(capsys, *words)
    assert status in (1, 2) and message in err and not out


def test_peer_rows_are_found_among_other_output():
    text = 'warm-up\n{"median_s": 1.0}\n{"note": 1}\n{"median_s": 2.0, "batch": 2}\nbye'
    assert peers.read_row(text) == {"median_s": 2.0, "batch": 2}
    assert peers.read_row('{"median_s": null}\nno\n3') is None


def test_alternates_and_compares(capsys, monkeypatch):
    log = []
    ours = iter([1.0, 2.0, 4.0])

    def run(command, who):
        log.append(who)
        if who == "ours":
            assert command[3:] == ["step", "--batch=2", "--json"]
            return {"median_s": next(ours), "peak_rss_mb": 50.0}
        return {"median_s": 4.0, "peak_rss_mb": 100.0}

    monkeypatch.setattr(peers, "_run", run)
    status, out, _ = run_bench(capsys, "step", "--batch=2", "--vs", "peer --fast", "--rounds=3", "--json")
    result = json.loads(out)
    assert status == 0 and log == ["ours", "the --vs program"] * 3
    assert result["ours"]["median_s"] == 2.0 and result["speedup"] == 2.0 and result["rss_ratio"] == 0.5


def test_a_peer_that_is_not_installed_is_said_before_anything_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(peers, "_run", lambda command, who: pytest.fail("measured"))
    status, out, err = run_bench(capsys, "segmentation", "--clips=2", "--vs=faiss", "--peer_python=/bin/false")
    assert status == 1 and not out
    assert "/bin/false cannot run the peer" in err and "pip install torch faiss-cpu" in err and "--peer_python" in err


def test_the_peer_is_asked_for_the_sizes_of_ours(capsys, monkeypatch):
    asked = []

    def run(command, who):
        asked.append(command)
        return {"median_s": 1.0, "cpu_s": 2.0 if who == "ours" else 3.0}

    monkeypatch.setattr(peers, "_run", run)
    words = ("segmentation", "--clips=2", "--side=32", "--protocol=clustering", "--vs=faiss", "--peer_python=true")
    status, out, err = run_bench(capsys, *words, "--rounds=1", "--repeats=5", "--json")
    assert status == 0 and json.loads(out)["cpu_speedup"] == 1.5, err
    assert asked[1][:3] == ["true", "-m", "sigma_jax.tools.benchmarks.peer_segmentation"]
    spec = peer_segmentation.parse(asked[1][3:])
    assert spec == BenchSpec("clustering", clips=2, side=32, repeats=5)


@pytest.mark.parametrize("is_one_to_one", [True, False])
def test_the_peer_scores_as_we_do(is_one_to_one):
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(0, 3, (4, 8, 8)), rng.integers(0, 5, (4, 8, 8))
    ours = match_clip(labels, clusters, "hungarian" if is_one_to_one else "precision").miou
    assert peer_segmentation.miou(labels, clusters, is_one_to_one) == pytest.approx(ours, abs=1e-12)


@pytest.mark.parametrize("protocol", ["clustering", "overclustering"])
def test_the_peer_finds_the_same_clusters(capsys, protocol):
    pytest.importorskip("faiss")
    pytest.importorskip("torch")
    sizes = ("--clips=2", "--side=64", "--width=60", f"--protocol={protocol}", "--repeats=1")
    assert bench.main(["bench", "segmentation", *sizes, "--json"]) == peer_segmentation.main(sizes) == 0
    ours, theirs = map(json.loads, capsys.readouterr().out.splitlines())
    assert ours["miou"] == pytest.approx(theirs["miou"], abs=0.1) and 10 < ours["miou"] < 100


def test_a_silent_peer_is_named_and_our_row_stays(capsys, monkeypatch):
    real = peers._run
    monkeypatch.setattr(peers, "_run", lambda command, who: {"median_s": 1.0} if who == "ours" else real(command, who))
    words = ("objective", "--vs=sh -c 'echo no numbers; exit 3'", "--rounds=2")
    status, out, err = run_bench(capsys, *words)
    assert status == 1 and "median_s" in out and "speedup" not in out
    assert "exited with 3" in err and "no numbers" in err and err.count("exited") == 1
