"""Comparison of the arms of an experiment: a table over seeds, and paired differences in words.

Runs of two arms with the same seed are paired: they start from the same random numbers and train on the same clips in
the same order, so that their difference varies less than each of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Numbers = Mapping[str, float]
Seeds = Mapping[int, Numbers]  # seed -> numbers of its run


def cell(values: Sequence[float]) -> str:
    """Mean and, with several seeds, sample standard deviation; a dash without values."""
    if not values:
        return "-"
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def table(rows: Mapping[str, Seeds], heading: str) -> list[dict[str, str]]:
    """Rows for a page and a markdown file: one per arm, a column per number of the first arm."""
    columns = list(next(iter(next(iter(rows.values())).values())))

    def cells(seeds: Seeds) -> dict[str, str]:
        return {name: cell([numbers[name] for numbers in seeds.values() if name in numbers]) for name in columns}

    return [{heading: title, "seeds": str(len(seeds)), **cells(seeds)} for title, seeds in rows.items()]


def markdown(shown: Sequence[Mapping[str, str]]) -> str:
    """The table in Markdown."""
    columns = list(shown[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row.values()) + " |" for row in shown)])


class Paired(NamedTuple):
    """A difference between two arms over the seeds that both have, with the 95 % interval of Student's t."""

    ahead: int  # seeds in which the first arm is higher
    num_seeds: int
    mean: float
    half_width: float  # of the interval; infinite for one seed

    @property
    def verdict(self) -> str:
        """'ahead' or 'behind' where the interval excludes 0, else 'level'."""
        if abs(self.mean) <= self.half_width:
            return "level"
        return "ahead" if self.mean > 0 else "behind"

    def sentence(self, name: str, other: str) -> str:
        """A sentence that says which number differs from which arm, in how many seeds, and by how much."""
        seeds = f"higher in {self.ahead} of {self.num_seeds} seeds"
        if self.num_seeds < 2:
            return f"{name}: {self.mean:+.1f} points to {other} in one seed, which says nothing about the spread."
        words = {"ahead": f"ahead of {other}", "behind": f"BEHIND {other}", "level": f"level with {other}"}
        return f"{name}: {words[self.verdict]}, {seeds}, {self.mean:+.1f} ± {self.half_width:.1f} points."


def paired(ours: Seeds, theirs: Seeds, name: str) -> Paired | None:
    """The difference ours - theirs of a number; None where no seed has both."""
    shared = [seed for seed in ours if seed in theirs and name in ours[seed] and name in theirs[seed]]
    if not shared:
        return None
    differences = np.array([ours[seed][name] - theirs[seed][name] for seed in shared])
    half_width = np.inf
    if len(differences) > 1:
        from scipy import stats  # takes half a second to import: only here

        quantile = stats.t.ppf(0.975, len(differences) - 1)
        half_width = float(quantile * differences.std(ddof=1) / np.sqrt(len(differences)))
    return Paired(int((differences > 0).sum()), len(differences), float(differences.mean()), half_width)


def findings(rows: Mapping[str, Seeds], ours: str) -> list[str]:
    """Sentences that compare `ours` with every other arm, number by number."""
    columns = list(next(iter(rows[ours].values())))
    found = []
    for name in columns:
        for title, seeds in rows.items():
            difference = paired(rows[ours], seeds, name) if title != ours else None
            if difference is not None:
                found.append(difference.sentence(name, title))
    return found
