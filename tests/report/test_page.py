"""The page of a run: everything inside one well-formed file, nothing fetched, nothing executed."""

import base64
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from sigma_jax.report.page import Picture, RunPage, write_page

VOID = {"meta", "img", "br", "hr"}


class _Document(HTMLParser):
    """Collects tags, attributes and text; insists that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def written(tmp_path):
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(tmp_path / "curves.png")
    frames = [Image.new("RGB", (4, 5), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "clips.gif", save_all=True, append_images=frames[1:])
    page = RunPage(
        title="SIGMA <demo> & friends",
        summary="900 steps.",
        command="python -m sigma_jax.main --config=a.py",
        config='{"url": "https://example.org/x.js", "s": "</pre><script>alert(1)</script>"}',
        versions={"jax": "0.10.2"},
        warnings=["loss at ln K for 500 steps", "3 videos skipped"],
        results=[{"features": "SIGMA", "motion": 87.14, "clips": 5}, {"features": "pixels", "motion": 84.0}],
        pictures=[
            Picture(tmp_path / "curves.png", 'falls to "0.6"', "Loss."),
            Picture(tmp_path / "clips.gif", "clips in motion", "Clips."),
        ],
    )
    return tmp_path, write_page(tmp_path / "report.html", page).read_text(encoding="utf-8")


def test_nothing_outside_the_file_is_referenced(written):
    _, text = written
    document = _Document(text)
    for tag, attributes in document.tags:
        assert tag not in {"script", "link", "iframe", "base", "object"}
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in {"href", "srcset", "style"}
            if name == "src":
                assert value.startswith("data:image/")
    assert "url(" not in text and "@import" not in text
    assert any("default-src 'none'" in meta.get("content", "") for meta in document.all("meta"))


def test_pictures_are_inside_with_size_and_words(written):
    folder, text = written
    png, gif = _Document(text).all("img")
    assert png["alt"] == 'falls to "0.6"' and (png["width"], png["height"]) == ("9", "6")
    head, data = png["src"].split(",")
    assert head == "data:image/png;base64" and base64.b64decode(data) == (folder / "curves.png").read_bytes()
    assert gif["src"].startswith("data:image/gif;base64,") and (gif["width"], gif["height"]) == ("4", "5")


def test_words_are_shown_and_escaped(written):
    _, text = written
    shown = "".join(_Document(text).text)
    for words in (
        "SIGMA <demo> & friends",
        "900 steps.",
        "--config=a.py",
        "</pre><script>alert(1)</script>",
        "0.10.2",
        "loss at ln K for 500 steps",
        "3 videos skipped",
        "87.1",
        "84.0",
        "pixels",
        "Clips.",
    ):
        assert words in shown, words
    assert "87.14" not in shown


def test_table_has_a_cell_for_every_column(written):
    document = _Document(written[1])
    assert [attrs.get("scope") for attrs in document.all("th")].count("col") == 3
    assert len([attrs for attrs in document.all("td") if attrs.get("class") == "number"]) == 4
    assert "–" in "".join(document.text)  # the second row has no number of clips


def test_empty_parts_are_left_out(tmp_path):
    page = RunPage(title="t", summary="s", command="c", config="{}", versions={})
    text = write_page(tmp_path / "report.html", page).read_text(encoding="utf-8")
    assert not _Document(text).all("img")
    assert all(f"<h2>{part}</h2>" not in text for part in ("Warnings", "Results", "Pictures"))


def test_broken_pictures_are_errors(tmp_path):
    def page(path):
        return RunPage(
            title="t", summary="s", command="c", config="{}", versions={}, pictures=[Picture(path, "alt", "caption")]
        )

    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "report.html", page(tmp_path / "missing.png"))
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(UnidentifiedImageError):
        write_page(tmp_path / "report.html", page(tmp_path / "broken.png"))
