"""The paper's table from the shipped numbers, and rows of runs of one's own."""

import json

import pytest

from sigma_jax.evals.severe.table import SCORES, gather, published_rows, severe_mean
from sigma_jax.tools.severe import main


def _results(folder, **changes):
    row = published_rows()[-1]
    for score in SCORES:
        content = {"data_set": score.name, score.metric: row.values[score.name], "complete": True, "model_size": "B"}
        content |= changes.get(score.name, {})
        place = folder / score.name / "eval"
        place.mkdir(parents=True)
        (place / "result.json").write_text(json.dumps(content))


def test_means_of_the_published_rows():
    rows = published_rows()
    assert [round(row.mean, 1) for row in rows] == [51.0, 52.0, 57.4, 58.8, 61.5, 64.3]
    assert [row.printed_mean for row in rows] == [51.0, 52.1, 57.4, 58.8, 61.5, 64.3]
    assert severe_mean({**rows[0].values, "ucf_rc": 0.0}) > rows[0].mean  # a smaller error is better
    assert severe_mean({"ssv2": 70.0}) is None


def test_eight_complete_results_make_the_row(tmp_path, capsys):
    _results(tmp_path / "runs")
    assert main([f"--runs={tmp_path / 'runs'}", "--name=ours", f"--out={tmp_path / 'out'}"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[-1] for line in text.splitlines() if line.startswith(("SIGMA-DINO", "ours"))] == ["64.3"] * 2
    assert (tmp_path / "out/severe.png").stat().st_size > 10_000
    assert (
        "| ours | 70.9 | 89.7 | 84.1 | 28.0 | 55.1 | 79.9 | .169 | 23.3 | 64.3 |"
        in (tmp_path / "out/severe.md").read_text()
    )


@pytest.mark.parametrize(
    "name,change,text",
    [
        ("ucf_rc", {"complete": False, "incomplete": ["train: 3 videos are missing"]}, "3 videos are missing"),
        ("charades", {"map": None}, "map=None, expected a number"),
        ("fx_s1", {"top1": float("nan")}, "top1=nan, expected a number"),
        ("gym99", {"data_set": "k400"}, "Gym99: missing"),
        ("ub_s1", {"data_set": "gym99"}, "Gym99: 2 results, expected one"),
        ("ssv2", {"model_size": "S"}, "models of different sizes"),
    ],
)
def test_what_is_missing_is_named_and_leaves_the_mean_empty(tmp_path, capsys, name, change, text):
    _results(tmp_path, **{name: change})
    row = gather(tmp_path)
    assert any(text in note for note in row.notes), row.notes
    if name != "ssv2":
        assert row.mean is None and main([f"--runs={tmp_path}"]) == 1
        assert text in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_told(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/result.json").write_text("{")
    assert "a/result.json: left out" in gather(tmp_path).notes[0]
    assert main([f"--runs={tmp_path / 'no'}"]) == 1
    assert "is no folder" in capsys.readouterr().err
