"""The benchmark command: its rows, its peers, its errors; and the model FLOPs behind MFU."""

import json

import jax
import pytest

from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.tools import bench
from sigma_jax.tools.benchmarks import peers
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


@pytest.fixture
def unoptimised():
    """Compiles in a hurry: these tests look at rows, not at speed."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
def test_rows_have_the_promised_numbers(capsys, words, unoptimised):
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


def test_a_silent_peer_is_named_and_our_row_stays(capsys, monkeypatch):
    real = peers._run
    monkeypatch.setattr(peers, "_run", lambda command, who: {"median_s": 1.0} if who == "ours" else real(command, who))
    words = ("objective", "--vs=sh -c 'echo no numbers; exit 3'", "--rounds=2")
    status, out, err = run_bench(capsys, *words)
    assert status == 1 and "median_s" in out and "speedup" not in out
    assert "exited with 3" in err and "no numbers" in err and err.count("exited") == 1
