"""The evidence run: what is finished is not repeated, and the sentences say what the numbers say."""

import json

import pytest

from sigma_jax.tools import evidence

OURS = evidence.ARMS["sigma"].title


def test_collect_measures_each_arm_and_seed_once(tmp_path, monkeypatch):
    measured = []

    def numbers_of(arm, seed, folder, data_dir, steps):
        measured.append((arm.title, seed))
        return {"knn/motion": 10.0 * seed}

    monkeypatch.setattr(evidence, "arm_numbers", numbers_of)
    monkeypatch.setattr(evidence, "pixel_numbers", lambda *_: {"knn/motion": 1.0})
    monkeypatch.setattr(evidence, "untrained_numbers", lambda *_: {"knn/motion": 2.0})
    first = evidence.collect(tmp_path, tmp_path, list(evidence.ARMS), seeds=2, steps=9)
    assert measured == [(arm.title, seed) for seed in (0, 1) for arm in evidence.ARMS.values()]
    assert [row["knn/motion"] for row in first[OURS]] == [0.0, 10.0]
    assert len(first["random weights"]) == 2 and len(first["raw 8x8x8 pixels"]) == 1
    again = evidence.collect(tmp_path, tmp_path, list(evidence.ARMS), seeds=3, steps=9)
    assert measured[10:] == [(arm.title, 2) for arm in evidence.ARMS.values()]  # only the new seed
    assert again[OURS][:2] == first[OURS]


def test_another_budget_needs_another_folder(tmp_path):
    path = tmp_path / "evidence.json"
    evidence.cached(path, {"steps": 900}, lambda: {"a": 1.0})
    with pytest.raises(ValueError, match="'steps': 900.*'steps': 300.*another --workdir"):
        evidence.cached(path, {"steps": 300}, lambda: {"a": 2.0})


@pytest.mark.parametrize("arms", ["pixel", "sigma,nothing", "sigma,sigma"])
def test_arms_start_with_sigma_and_are_known(arms, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evidence.main([f"--workdir={tmp_path}", f"--data_dir={tmp_path}", f"--arms={arms}"])
    assert f"got --arms={arms}: expected sigma, then any of pixel" in capsys.readouterr().err


def test_a_run_that_fails_names_its_log(tmp_path):
    with pytest.raises(RuntimeError, match=r"status \d.*log\.txt"):
        evidence.train(evidence.ARMS["sigma"], 0, tmp_path / "run", tmp_path / "no_data", 3)
    assert "no_data" in (tmp_path / "run" / "log.txt").read_text()


def test_findings_admit_where_sigma_is_behind():
    rows = {
        OURS: [{"knn/motion": 60.0}, {"knn/motion": 70.0}],
        "worse": [{"knn/motion": 50.0}, {"knn/motion": 55.0}],
        "level": [{"knn/motion": 69.0}, {"knn/motion": 80.0}],
        "pixels": [{"knn/motion": 90.0}],
    }
    assert evidence.findings(rows) == ["knn/motion: SIGMA-MLP is ahead of worse; level with level; BEHIND pixels."]


def test_table_and_markdown_hold_mean_and_sample_deviation():
    shown = evidence.table({OURS: [{"knn/motion": 60.0}, {"knn/motion": 70.0}], "pixels": [{"knn/motion": 90.0}]})
    assert [row["knn/motion"] for row in shown] == ["65.0 ± 7.1", "90.0"]
    extra = evidence.table({OURS: [{"knn/motion": 6.0, "attentive/motion": 7.0}], "pixels": [{"knn/motion": 9.0}]})
    assert [row["attentive/motion"] for row in extra] == ["7.0", "-"]
    lines = evidence.markdown(shown, ["found"], "note").splitlines()
    assert lines[0] == "| frozen features | knn/motion |" and lines[-1] == "- found"
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_cached_numbers_are_readable(tmp_path):
    evidence.cached(tmp_path / "deep" / "x.json", {"seed": 1}, lambda: {"a": 1.5})
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == {"asked": {"seed": 1}, "numbers": {"a": 1.5}}
