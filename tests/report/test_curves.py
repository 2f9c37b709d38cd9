"""Curves: what is read from metrics.jsonl, which panel shows it, and that a picture comes out."""

import json

import numpy as np
import pytest
from PIL import Image

from sigma_jax.report.curves import _assign, _running_mean, read_metrics, write_curves


def _write(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_resumed_and_cut_off_runs_are_read(tmp_path):
    rows = [
        {"step": 0, "loss": 5.0, "note": "hello"},
        {"step": 10, "loss": 4.0},
        {"step": 20, "loss": 9.0},
        {"step": 10, "loss": 4.5, "lr": 1e-3},
    ]
    metrics = read_metrics(_write(tmp_path / "metrics.jsonl", rows, tail='{"step": 30, "lo'))
    assert list(metrics) == ["loss", "lr"]
    np.testing.assert_array_equal(metrics["loss"][0], [0, 10, 20])
    np.testing.assert_array_equal(metrics["loss"][1], [5, 4.5, 9])
    np.testing.assert_array_equal(metrics["lr"], [[10], [1e-3]])


def test_metrics_find_their_panel():
    names = [
        "loss",
        "loss_pred",
        "loss_over_lnk",
        "prototypes_used_pred",
        "prototypes_used_proj",
        "assignment_entropy_pred",
        "marginal_error_proj",
        "grad_norm",
        "target_spread",
        "val/top1",
        "lr",
        "clips_per_s",
        "data_wait_ms",
        "knn/motion",
        "segmentation/clustering",
        "linear/joint",
        "step_ms",
        "nonfinite_steps",
    ]
    shown = {panel.title: found for panel, found in _assign(names).items()}
    assert shown["Loss"] == ["loss", "loss_pred"] and shown["Loss relative to chance"] == ["loss_over_lnk"]
    assert shown["Prototypes in use"] == ["prototypes_used_pred", "prototypes_used_proj"]
    assert all(shown.values())  # no panel whose pattern matches nothing that is logged
    assert sorted(sum(shown.values(), [])) == sorted(names[:-2])


def test_running_mean_skips_what_is_not_finite():
    values = np.array([1.0, 1, np.nan, 4, 4])
    np.testing.assert_allclose(_running_mean(values, 3), [1, 1, np.nan, 4, 4])
    np.testing.assert_allclose(_running_mean(np.arange(9.0), 3)[1:-1], np.arange(1, 8))


def test_picture_grows_with_its_panels(tmp_path):
    rows = [{"step": step, "loss": 5 - step / 100} for step in range(0, 200, 10)]
    small = Image.open(write_curves(tmp_path / "small.png", _write(tmp_path / "a.jsonl", rows)))
    rng = np.random.default_rng(0)
    rows = [
        {
            "step": step,
            "loss": rng.normal(),
            "loss_pred": float("nan"),
            "prototypes_used_pred": 0.5,
            "grad_norm": rng.uniform(),
            "lr": step,
            "knn/motion": 25.0,
        }
        for step in range(200)
    ]
    large = Image.open(write_curves(tmp_path / "large.png", _write(tmp_path / "b.jsonl", rows)))
    assert large.height > small.height and large.width > small.width


def test_one_point_is_enough(tmp_path):
    path = write_curves(tmp_path / "one.png", _write(tmp_path / "m.jsonl", [{"step": 0, "loss": 1.0}]))
    assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 10


@pytest.mark.parametrize("rows, message", [([], "holds no metrics"), ([{"step": 1, "other": 2.0}], "other")])
def test_nothing_to_draw_is_an_error(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        write_curves(tmp_path / "c.png", _write(tmp_path / "m.jsonl", rows))
