"""The rows of the input benchmark: promised keys, sensible numbers; no timing is asserted."""

import json
from pathlib import Path

import pytest

from sigma_jax.data import decode, decoders
from sigma_jax.tools import bench, prepare
from sigma_jax.tools.benchmarks import data as bench_data

CLIPS = Path(__file__).parents[1] / "data" / "clips" / "sign"


@pytest.mark.parametrize("payload", ["video", "jpeg"])
def test_rows(tmp_path, capsys, payload):
    flags = [f"--videos={CLIPS}", f"--out={tmp_path}", "--workers=0", f"--payload={payload}", "--short_side=64"]
    assert prepare.main(flags) == 0
    capsys.readouterr()
    small = ["--image_size=32", "--num_frames=4", "--batch=2", "--clips=4", "--workers=0,1", "--device_rate=1e9"]
    assert bench.main(["bench", "data", f"--data_dir={tmp_path}", "--json", *small]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ours = [row for row in rows if row["reader"] == "ours"]
    assert [row["workers"] for row in ours] == [0, 1]
    for row in ours:
        assert row["payload"] == payload and row["clips"] == 4
        assert row["clips_per_cpu_s"] > 0 and row["clips_per_s"] > 0 and row["peak_mb"] > 1
        assert row["wait_ms"] == pytest.approx(1000 * 2 / row["clips_per_s"], rel=0.02)


def test_missing_shards_are_said(tmp_path, capsys):
    assert bench_data.main([f"--data_dir={tmp_path}"]) == 1
    assert f"bench data: {tmp_path} holds no shards" in capsys.readouterr().err


def test_steps_show_the_memory_of_all_processes(tmp_path, capsys):
    assert prepare.main([f"--videos={CLIPS}", f"--out={tmp_path}", "--workers=0", "--payload=jpeg"]) == 0
    capsys.readouterr()
    small = ["--image_size=32", "--num_frames=4", "--batch=2", "--steps=20", "--workers=0,1", "--json"]
    assert bench_data.main([f"--data_dir={tmp_path}", *small]) == 0
    alone, with_worker = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert len(alone["rss_mb"]) == len(with_worker["rss_mb"]) == 10 and with_worker["clips"] == 40
    assert 20 < min(alone["rss_mb"]) < min(with_worker["rss_mb"]) - 20  # a worker is a whole process
    assert alone["index_records_per_s"] > 0 and alone["index_mb_per_s"] >= 0


def test_the_peer_runs_in_turn_with_ours():
    calls = []
    (wall, cpu, clips), ratio = bench_data._in_turn(
        lambda i, rng: calls.append("peer"), lambda i, rng: calls.append("ours"), 3, 32
    )
    assert clips == 8 and wall > 0 and cpu >= 0 and ratio >= 0
    assert calls == ["peer"] * 2 + ["ours"] * 2 + (["peer"] * 2 + ["ours"] * 2) * 4


def test_the_decoder_that_is_asked_for_is_used(tmp_path, capsys, monkeypatch):
    assert prepare.main([f"--videos={CLIPS}", f"--out={tmp_path}", "--workers=0"]) == 0
    asked, plain = [], decode.decode_frames
    monkeypatch.setitem(decoders.DECODERS, "json", lambda *args: asked.append(args) or plain(*args))  # a stand-in
    flags = ["--image_size=32", "--num_frames=4", "--batch=2", "--clips=4", "--workers=0", "--json"]
    capsys.readouterr()
    assert bench_data.main([f"--data_dir={tmp_path}", "--decoder=json", *flags]) == 0
    assert len(asked) >= 8 and json.loads(capsys.readouterr().out.splitlines()[0])["decoder"] == "json"
    monkeypatch.setitem(decoders.DECODERS, "no_such_package", lambda *args: None)
    assert bench_data.main([f"--data_dir={tmp_path}", "--decoder=no_such_package", *flags]) == 1
    assert "pip install no_such_package" in capsys.readouterr().err


@pytest.mark.parametrize("flag,told", [("--clips=0", "a whole number from 1 up"), ("--device_rate=0", "more than 0")])
def test_wrong_flags(capsys, flag, told):
    with pytest.raises(SystemExit):
        bench_data.main(["--data_dir=x", flag])
    assert f"expected {told}" in capsys.readouterr().err
