"""The eight scores of SEVERE, the paper's Mean, published rows, and rows gathered from runs of our own.

SEVERE (Thoker et al. 2022) measures how well a video model generalises to another domain, few samples, fine actions and
other tasks. Salehi et al. 2024 report it in one table with a Mean; published.csv holds their rows.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from sigma_jax.runtime.errors import InvalidValue


class Score(NamedTuple):
    """One column of the table.

    Attributes:
      name: of the data set in configs and results.
      title: heading.
      metric: the number of result.json.
      lower_is_better: whether it is an error.
    """

    name: str
    title: str
    metric: str
    lower_is_better: bool = False

    def show(self, value: float | None) -> str:
        """The number as the paper prints it; a dash for None."""
        if value is None:
            return "-"
        return f"{value:.3f}".removeprefix("0") if self.lower_is_better else f"{value:.1f}"

    def points(self, value: float) -> float:
        """The contribution of the score to the Mean, 0 to 100, where higher is better."""
        return 100.0 * (1.0 - value) if self.lower_is_better else value


SCORES = (
    Score("ssv2", "SSv2", "top1"),
    Score("gym99", "Gym99", "top1"),
    Score("ucf_1000", "UCF 10^3", "top1"),
    Score("gym_1000", "Gym 10^3", "top1"),
    Score("fx_s1", "FX-S1", "top1"),
    Score("ub_s1", "UB-S1", "top1"),
    Score("ucf_rc", "UCF-RC (lower)", "relative_error", lower_is_better=True),
    Score("charades", "Charades", "map"),
)
BY_NAME = {score.name: score for score in SCORES}


@dataclass(frozen=True)
class Row:
    """One method: numbers by score name, notes on missing ones, and the Mean as printed in the paper."""

    method: str
    values: Mapping[str, float]
    notes: tuple[str, ...] = ()
    printed_mean: float | None = None

    @property
    def mean(self) -> float | None:
        """The Mean as the paper defines it; None unless there are all eight scores."""
        return severe_mean(self.values)


def severe_mean(values: Mapping[str, float]) -> float | None:
    """Average of seven scores and of 100 (1 - error of UCF-RC); None if a score is missing."""
    if any(score.name not in values for score in SCORES):
        return None
    return math.fsum(score.points(values[score.name]) for score in SCORES) / len(SCORES)


def published_rows() -> list[Row]:
    """The rows of the paper's table, ViT-B pre-trained on K400."""
    text = resources.files(__package__).joinpath("published.csv").read_text("utf-8")
    rows = []
    for line in csv.DictReader(text.splitlines()):
        values = {score.name: float(line[score.name]) for score in SCORES}
        rows.append(Row(line["method"], values, printed_mean=float(line["printed_mean"])))
    return rows


def gather(folder: Path, method: str = "") -> Row:
    """Our row, from every `result.json` below `folder`.

    A score counts if there is exactly one result for its data set, and this is complete. Everything else becomes a
    note.

    Raises:
      InvalidValue: no such folder.
    """
    if not folder.is_dir():
        raise InvalidValue(f"{folder} is no folder: expected one that holds runs, each with eval/result.json")
    found: dict[str, list[Path]] = {score.name: [] for score in SCORES}
    contents, notes = {}, []
    for path in sorted(folder.rglob("result.json")):
        try:
            content = json.loads(path.read_text("utf-8"))
            found[content["data_set"]].append(path)
            contents[path] = content
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            notes.append(f"{path}: left out, no result of one of the eight ({type(error).__name__}: {error})")
    values = {}
    for score in SCORES:
        value, note = _value(score, [(path, contents[path]) for path in found[score.name]])
        if note:
            notes.append(note)
        else:
            values[score.name] = value
    notes += _differences([contents[path] for paths in found.values() for path in paths])
    return Row(method or folder.resolve().name, values, tuple(notes))


def _value(score: Score, results: list[tuple[Path, Mapping]]) -> tuple[float, str]:
    """(number, "") or (nan, the reason)."""
    if not results:
        return math.nan, f"{score.title}: missing, no result for {score.name}"
    if len(results) > 1:
        return math.nan, f"{score.title}: {len(results)} results, expected one: {', '.join(str(p) for p, _ in results)}"
    path, content = results[0]
    value = content.get(score.metric)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        return math.nan, f"{score.title}: {path} has {score.metric}={value!r}, expected a number"
    if content.get("complete") is not True:
        reasons = "; ".join(map(str, content.get("incomplete", ()))) or "see the file"
        return math.nan, f"{score.title}: incomplete ({score.metric} {score.show(value)}), {reasons}: {path}"
    return float(value), ""


def _differences(results: Iterable[Mapping]) -> list[str]:
    """A sentence if the results of one row come from models of different sizes."""
    sizes: dict[str, list[str]] = {}
    for content in results:
        if "model_size" in content:
            sizes.setdefault(str(content["model_size"]), []).append(content["data_set"])
    if len(sizes) < 2:
        return []
    told = "; ".join(f"{size} ({', '.join(names)})" for size, names in sizes.items())
    return [f"results of models of different sizes in one row: {told}"]


def table_text(rows: Iterable[Row], markdown: bool = False) -> str:
    """The table as aligned text or as Markdown."""
    heads = ["method", *(score.title for score in SCORES), "Mean"]
    lines = [heads]
    for row in rows:
        numbers = [score.show(row.values.get(score.name)) for score in SCORES]
        lines.append([row.method, *numbers, "" if row.mean is None else f"{row.mean:.1f}"])
    if markdown:
        rule = ["---", *("---:" for _ in heads[1:])]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:]))
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    padded = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join("  ".join(cells) for cells in padded)
