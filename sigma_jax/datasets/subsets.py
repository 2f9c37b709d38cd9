"""The parts of data sets on which SEVERE trains: a thousand samples, or the elements of one gymnastics set.

They are drawn from the list as released, whether or not the videos exist, because one missing file would change nearly
every draw. A drawn video that is missing is named, and the data set is marked as incomplete. (The published code
removes missing videos first.) After Thoker et al. 2022, section 3.

Letters: n lines of a list.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sigma_jax.datasets.specs import expected_videos
from sigma_jax.runtime.errors import InvalidValue

SEED = 99_999


@dataclass(frozen=True)
class Subset:
    """How a part of a list is chosen.

    Attributes:
      of: format of the list (list_formats.FORMATS).
      num_classes: of the part.
      samples: approximate number of samples, drawn in equal numbers from every class; 0: all lines.
      classes: labels that are kept, and renumbered from 0; None: all.
      sizes: number of lines of the part, by split, if the list is complete.
      list_hashes: SHA-256 of complete lists by split, where known.
      draws_from: the split from which samples are drawn; others are used whole.
    """

    of: str
    num_classes: int
    samples: int = 0
    classes: range | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    list_hashes: tuple[tuple[str, str], ...] = ()
    draws_from: str = "train"


_UCF_TRAIN = "f7a4d7abc05147b921c17fc227d731197c3583f29945d1f1d46bce830d1b9f12"
SUBSETS = {
    "ucf_1000": Subset(
        "ucf101", 101, 1000, sizes=(("train", 1010), ("val", 3783)), list_hashes=(("train", _UCF_TRAIN),)
    ),
    "gym_1000": Subset("gym99", 99, 1000, sizes=(("train", 1089), ("val", 8521))),
    "fx_s1": Subset("gym99", 11, classes=range(6, 17), sizes=(("train", 1882), ("val", 777))),
    "ub_s1": Subset("gym99", 15, classes=range(74, 89), sizes=(("train", 3511), ("val", 1471))),
}


def lookup_subset(name: str, list_format: str) -> Subset:
    """The subset of a name; raises ValueError if it is unknown, or drawn from another data set's list."""
    if name not in SUBSETS:
        raise InvalidValue(f"subset {name!r} is unknown, expected one of {', '.join(SUBSETS)}")
    if SUBSETS[name].of != list_format:
        raise InvalidValue(f"subset {name} is drawn from lists in the format {SUBSETS[name].of!r}, not {list_format!r}")
    return SUBSETS[name]


def describe(name: str, path: Path, split: str, num_lines: int, chosen: tuple[np.ndarray, np.ndarray]) -> dict:
    """A record of what was drawn from which list, JSON, for prepare_report.json.

    Its `problems` are differences to the published part. Missing videos are not among them: the caller adds them.

    Args:
      num_lines: of the whole list. A shorter one may give as many samples, but others.
      chosen: line numbers and labels, of `choose`.
    """
    rows, labels = chosen
    part, digest = SUBSETS[name], hashlib.sha256(path.read_bytes()).hexdigest()
    expected_hash, size = dict(part.list_hashes).get(split), dict(part.sizes).get(split)
    released, problems = expected_videos(part.of, split), []
    if released and num_lines != released:
        problems.append(f"{path.name} has {num_lines:,} lines, the released list {released:,}: other lines are drawn")
    if expected_hash not in (None, digest):
        problems.append(f"{path.name} is not the released list: SHA-256 {digest[:12]}, expected {expected_hash[:12]}")
    if size not in (None, len(rows)):
        problems.append(f"{len(rows)} lines of {path.name} belong to {name}, expected {size}: is the list complete?")
    return {
        "name": name,
        "list": path.name,
        "list_sha256": digest,
        "list_checked_by": "SHA-256" if expected_hash else "lines; the SHA-256 of the released list is not known",
        "rows": np.asarray(rows).tolist(),
        "labels": np.asarray(labels).tolist(),
        "problems": problems,
    }


def draw_samples(labels: np.ndarray, samples: int) -> np.ndarray:
    """Numbers of the drawn lines, int, in the order in which the released code draws them.

    Of each class, in order, ceil(samples / number of classes that occur) lines are drawn; of a class with fewer lines
    all of them.

    Args:
      labels: int [n], one per line.
    """
    labels, rng = np.asarray(labels), np.random.RandomState(SEED)
    classes = np.unique(labels)
    each = math.ceil(samples / len(classes))
    rows = [np.flatnonzero(labels == label) for label in classes]
    return np.concatenate([rng.choice(own, min(each, len(own)), replace=False) for own in rows])


def choose(subset: Subset, labels: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(lines int, their labels in the subset) of a list with labels int [n].

    Raises:
      InvalidValue: no line belongs to the subset.
    """
    labels = np.asarray(labels)
    rows = np.arange(len(labels))
    if subset.classes is not None:
        rows = rows[np.isin(labels, subset.classes)]
    if len(rows) and subset.samples and split == subset.draws_from:
        rows = rows[draw_samples(labels[rows], subset.samples)]
    if not len(rows):
        span = f"{labels.min()}..{labels.max()}" if len(labels) else "none"
        raise InvalidValue(f"no line has a class of the subset ({subset.classes}); labels are {span}")
    return rows, labels[rows] - (subset.classes.start if subset.classes else 0)
