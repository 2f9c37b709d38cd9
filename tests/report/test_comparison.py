"""Curves of several arms in one picture."""

import json

import pytest
from PIL import Image

from sigma_jax.report.comparison import write_comparison


def _metrics(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_arms_share_axes_and_only_what_was_logged_is_drawn(tmp_path):
    one = _metrics(tmp_path / "a.jsonl", [{"step": s, "knn/motion": 10.0 + s, "loss": 1.0} for s in (1, 2, 3)])
    two = _metrics(tmp_path / "b.jsonl", [{"step": s, "knn/motion": 12.0 + s} for s in (2, 3)])
    three = _metrics(tmp_path / "c.jsonl", [{"step": 2, "target_spread": 0.1}, {"step": 3, "target_spread": 0.01}])
    small = Image.open(write_comparison(tmp_path / "small.png", {"sigma": [one, two]}))
    large = Image.open(write_comparison(tmp_path / "large.png", {"sigma": [one, two], "learned": [three]}))
    assert large.width == 2 * small.width  # a second axis for the spread
    assert large.convert("L").getextrema()[0] < 100  # something dark was drawn


def test_arms_without_such_metrics_are_refused(tmp_path):
    path = _metrics(tmp_path / "a.jsonl", [{"step": 1, "loss": 1.0}])
    with pytest.raises(ValueError, match="no arm of .'sigma'. logged any of"):
        write_comparison(tmp_path / "x.png", {"sigma": [path]})
