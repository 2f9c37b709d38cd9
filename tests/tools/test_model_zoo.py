"""The model zoo's page is what its manifest gives; entries that claim too little or too much are refused."""

import tomllib
from pathlib import Path

import pytest

from sigma_jax.tools.model_zoo import main, page
from sigma_jax.train.initial_weights import PUBLISHED_TEACHERS

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def test_the_page_is_up_to_date(tmp_path):
    assert main([f"--manifest={LAUNCH / 'model_zoo.toml'}", f"--out={tmp_path / 'zoo.md'}"]) == 0
    assert (tmp_path / "zoo.md").read_text() == (LAUNCH / "MODEL_ZOO.md").read_text()


def test_every_teacher_of_the_error_message_is_listed():
    places = {entry["place"] for entry in tomllib.loads((LAUNCH / "model_zoo.toml").read_text())["file"]}
    assert set(PUBLISHED_TEACHERS.values()) <= places


def test_a_file_of_ours_needs_its_evidence():
    fields = ("name", "method", "data", "inside", "place", "licence")
    entry = dict.fromkeys(fields, "x") | {"published": "us"}
    with pytest.raises(ValueError, match="x: a file of ours needs bytes, sha256, command"):
        page({"file": [entry]})
    proven = entry | {"bytes": 12, "sha256": "ab", "command": "python"}
    assert "| bytes | 12 |" in page({"file": [proven]})
    with pytest.raises(ValueError, match=r"unknown \['colour'\]"):
        page({"file": [proven | {"colour": "red"}]})
