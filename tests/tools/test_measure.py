"""Measuring on a GPU: what is run, how it goes on after a cut, what is read; and the peer is the published step."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from sigma_jax.data.records import find_shards, shard_name
from sigma_jax.tools import bench, measure
from sigma_jax.tools.benchmarks import jpeg_shards, peer_step, profile
from sigma_jax.tools.benchmarks.campaign import Campaign
from sigma_jax.tools.benchmarks.goals import goals, table
from sigma_jax.tools.benchmarks.options import OPTIONS
from sigma_jax.tools.benchmarks.peers import read_row
from sigma_jax.tools.benchmarks.stages import Stage, stages

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture
def options():
    """The benchmarks' flags as they were."""
    before = {name: OPTIONS[name].value for name in OPTIONS}
    yield
    for name in OPTIONS:
        OPTIONS[name].value = before.get(name, OPTIONS[name].default)


@pytest.mark.parametrize("smoke", [True, False])
def test_every_stage_is_a_command_that_exists(smoke, options):
    every = stages(smoke)
    assert len({stage.name for stage in every}) == len(every) > 20
    for stage in every:
        _, module, *words = stage.words
        if module.endswith("tools.bench"):
            bench.parse(["bench", *words])
        elif module.endswith("peer_step"):
            assert peer_step.parse(words).smoke == smoke
        elif module.endswith("jpeg_shards"):
            assert words[0] == "--out={data}"
        else:
            assert module in ("pytest", "sigma_jax.tools.benchmarks.training")


def printing(name: str, code: str, **limits) -> Stage:
    return Stage(name, ("-c", code), needs=0, **limits)


def test_a_campaign_goes_on_with_what_is_not_done(tmp_path, capsys):
    marker = tmp_path / "ran"
    first = printing("first", f"open({str(marker)!r}, 'a').write('x'); print('words'); print('{{\"median_s\": 0.5}}')")
    wanted = [
        first,
        printing("broken", "import sys; sys.exit('it does not work')"),
        printing("endless", "import time; time.sleep(60)", limit=1, beside=True),
        printing("beside", 'print(\'{"median_s": 0.25, "clips_per_s": 7.0}\')', beside=True),
        Stage("costly", ("-c", "print(1)"), needs=10_000),
    ]
    campaign = Campaign(tmp_path, 30, sys.executable)
    campaign.run(wanted)
    found = {row["stage"]: row for row in campaign.rows()}
    assert found["first"]["median_s"] == 0.5 and found["beside"]["status"] == 0
    assert found["broken"]["error"] == "it does not work" and found["broken"]["status"] == 1
    assert found["endless"]["status"] == 124 and "costly" not in found
    assert "skip costly: needs 10000 s" in capsys.readouterr().out
    Campaign(tmp_path, 30, sys.executable).run([first, printing("broken", "print('{\"median_s\": 1.0}')")])
    assert marker.read_text() == "x"  # done, so not run again
    assert [row["status"] for row in campaign.rows() if row["stage"] == "broken"] == [1, 0]
    text = table(campaign.rows())
    assert "250.00" in text and "it does not work" not in text


def test_goals_are_ratios_of_what_was_measured():
    rows = {"dino_cold": {"median_s": 0.08}, "dino_warm": {"median_s": 0.1}, "peer_shipped_dino": {"median_s": 0.4}}
    found = dict(goals(rows))
    assert found["the authors' step as shipped / ours, ViT-B DINO-B (>= 5)"] == pytest.approx(5.0)
    assert found["clips/s, ViT-B MLP"] is None


def test_unknown_stages_are_named(capsys):
    assert measure.main(["--only=dino_cold,fast"]) == 2
    assert "no stage is called fast; there are dino_cold" in capsys.readouterr().err


def test_one_real_stage_in_tiny_sizes(tmp_path, capsys):
    assert measure.main(["--smoke", "--only=objective", f"--folder={tmp_path}"]) == 0
    (row,) = Campaign(tmp_path, 0, sys.executable).rows()
    assert row["median_s"] > 0 and row["cache_misses"] > 0 and row["since_start_s"] > 0
    assert (tmp_path / "summary.txt").read_text().startswith("stage") and "objective" in capsys.readouterr().out


def test_a_trace_is_booked_on_parts_of_the_model(tmp_path, options):
    names = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "pid": 1, "tid": 7, "name": "thread_name", "args": {"name": "Stream #13"}},
        {"ph": "M", "pid": 2, "name": "process_name", "args": {"name": "/host:CPU"}},
    ]
    kernel = {"ph": "X", "pid": 1, "tid": 7}
    events = [
        kernel | {"name": "fusion_3", "ts": 0.0, "dur": 3000.0, "args": {"hlo_op": "fusion.3"}},
        kernel | {"name": "nvjet_sm90", "ts": 3000.0, "dur": 6000.0, "args": {"hlo_op": "command_buffer"}},
        kernel | {"name": "MemcpyD2D", "ts": 12000.0, "dur": 3000.0},
        {"ph": "X", "pid": 2, "tid": 1, "name": "host work", "ts": 0.0, "dur": 90000.0},
    ]
    with gzip.open(tmp_path / "vm.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": names + events}, file)
    with gzip.open(tmp_path / "step.hlo.gz", "wt") as file:
        file.write('  %fusion.3 = f32[2]{0} fusion(%x), metadata={op_name="jit(step)/jvp(DinoVit)/while/body/mul"}\n')
    OPTIONS(["bench", f"--trace={tmp_path}", f"--hlo={tmp_path / 'step.hlo.gz'}"])
    row = profile.measure({})
    assert row["parts_ms_a_step"] == {"matmul library": 2.0, "teacher": 1.0, "copies": 1.0}
    assert row["idle_share"] == pytest.approx(0.2) and row["kernels_a_step"] == 1


def test_written_shards_can_be_read(tmp_path):
    assert jpeg_shards.write_shard(tmp_path / shard_name("k400", "train", 0, 1), range(1), 2)[0] == 1
    assert len(find_shards(tmp_path, "train")) == 1


@pytest.mark.parametrize("target", ["dino", "mlp"])
def test_the_peer_is_the_published_step(target):
    pytest.importorskip("torch")
    assert peer_step.check_golden(str(GOLDENS / f"pretrain_{target}_swav.npz"))["ok"]


def test_the_peer_prints_what_is_compared(capsys):
    pytest.importorskip("torch")
    assert peer_step.main(["--mode=fp32", "--target=mlp", "--smoke"]) == 0
    row = read_row(capsys.readouterr().out)
    assert min(row[name] for name in ("median_s", "cpu_s", "peak_rss_mb")) > 0 and row["batch"] == 2
