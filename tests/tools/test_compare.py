"""A run is told apart from its reference where its curves leave the band, and only there."""

import json

import numpy as np
import pytest

from sigma_jax.tools import compare

CONFIG = {
    "task": "pretrain",
    "seed": 0,
    "batch_size": 64,
    "total_steps": 900,
    "objective": {"target": "mlp", "num_prototypes": 128, "epsilon": 0.05, "mask_ratio": 0.75},
    "data": {"num_workers": 0},
}
STEPS = range(20, 920, 20)


def make_run(folder, seed, curve=lambda step: 0.0, **changes):
    """A run whose loss falls from 1.15 to 0.75, plus `curve`, with some noise of its seed."""
    folder.mkdir(parents=True)
    objective = {**CONFIG["objective"], **changes.pop("objective", {})}
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes, "objective": objective, "seed": seed}))
    (folder / "versions.json").write_text('{"commit": "0123abc"}')
    (folder / "command.txt").write_text("python -m sigma_jax.main --config=configs/demo.py\n")
    noise = np.random.default_rng(seed).normal(0, 0.005, len(STEPS))
    rows = [
        {"step": step, "loss_over_lnk": 0.75 + 0.4 * np.exp(-step / 200) + e + curve(step), "prototypes_used_pred": 0.6}
        for step, e in zip(STEPS, noise, strict=True)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def reference(tmp_path):
    runs = [str(make_run(tmp_path / f"good{seed}", seed)) for seed in range(3)]
    assert compare.main([f"--make={tmp_path / 'reference'}", *runs]) == 0
    return tmp_path / "reference"


def test_a_healthy_run_is_normal(tmp_path, reference, capsys):
    run = make_run(tmp_path / "run", 7)
    assert compare.main([str(run), str(reference)]) == 0
    out = capsys.readouterr().out
    assert "normal" in out and "3 seeds, commit 0123abc" in out
    assert (run / "pictures" / "compare.png").stat().st_size > 5000


@pytest.mark.parametrize(("sign", "side"), [(1, "above"), (-1, "below")])
def test_a_departure_is_told_with_its_first_step(tmp_path, reference, capsys, sign, side):
    run = make_run(tmp_path / "run", 7, lambda step: sign * 0.2 * (step >= 300), objective={"epsilon": 1.0})
    assert compare.main([str(run), str(reference)]) == compare.DEPARTED
    out = capsys.readouterr().out
    assert f"loss / ln K {side} the band since step 300" in out
    assert "another setting than the reference: objective.epsilon: 0.05 -> 1.0" in out


def test_one_wild_step_is_no_departure(tmp_path, reference):
    run = make_run(tmp_path / "run", 7, lambda step: 0.5 * (step == 400))
    assert compare.main([str(run), str(reference)]) == 0


def test_a_run_under_way_is_compared_as_far_as_it_is(tmp_path, reference, capsys):
    run = make_run(tmp_path / "run", 7)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:10]) + '{"step": 220, "loss_ov')  # killed in the middle of a line
    assert compare.main([str(run), str(reference)]) == 0
    assert "up to step 200" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"num_prototypes": 3000}, "objective.num_prototypes: 128 -> 3000"),
        ({"mask_ratio": 0.25}, "objective.mask_ratio: 0.75 -> 0.25"),
    ],
)
def test_another_experiment_is_refused_with_the_difference(tmp_path, reference, capsys, setting, line):
    run = make_run(tmp_path / "run", 7, objective=setting)
    assert compare.main([str(run), str(reference)]) == 1
    assert line in capsys.readouterr().err


def test_what_is_missing_is_named(tmp_path, reference, capsys):
    run = make_run(tmp_path / "run", 7)
    (run / "metrics.jsonl").unlink()
    assert compare.main([str(run), str(reference)]) == 1
    assert "metrics.jsonl does not exist" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text("no json\n")
    assert compare.main([str(run), str(reference)]) == 1
    assert "holds no metrics" in capsys.readouterr().err
    assert compare.main([str(tmp_path / "nothing"), str(reference)]) == 1
    assert "no folder of a run" in capsys.readouterr().err
    assert compare.main([str(run), str(tmp_path)]) == 1
    assert "no reference.json" in capsys.readouterr().err
    (reference / "reference.json").write_text("{")
    assert compare.main([str(run), str(reference)]) == 1
    assert "no description of a reference" in capsys.readouterr().err


def test_a_reference_is_made_of_one_experiment(tmp_path, capsys):
    runs = [make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1, objective={"epsilon": 0.5})]
    assert compare.main([f"--make={tmp_path / 'reference'}", *map(str, runs)]) == 1
    assert "two experiments" in capsys.readouterr().err
