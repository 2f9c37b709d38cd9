"""The parts of data sets that SEVERE trains on: a thousand samples, or the elements of one gymnastics set.

Drawn from the list as released, before anything is known about which videos are there: one missing file would change
nearly every pick. A drawn video that is missing is named, and the data set says that it is incomplete. (The published
code removes missing videos first.) After Thoker et al. 2022, section 3.

Letters: n lines of a list.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED = 99_999


@dataclass(frozen=True)
class Subset:
    """How a part of a list is chosen.

    Attributes:
      of: format of the list (datasets' list formats).
      samples: about how many are drawn, the same number of every class; 0: all.
      classes: labels that are kept and counted from 0 on; None: all.
      num_classes: that the part has.
      sizes: how many lines the part of each complete list has.
      list_hashes: SHA-256 of complete lists by split, where they are known.
      draws_from: the split of which samples are drawn; others are whole.
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
    """Raises ValueError where there is no such subset, or it is drawn from another list."""
    if name not in SUBSETS:
        raise ValueError(f"subset {name!r} is unknown, expected one of {', '.join(SUBSETS)}")
    if SUBSETS[name].of != list_format:
        raise ValueError(f"subset {name} is drawn from lists in the format {SUBSETS[name].of!r}, not {list_format!r}")
    return SUBSETS[name]


def describe(name: str, path: Path, split: str, rows: np.ndarray, labels: np.ndarray) -> dict:
    """What was drawn and from which list, to be kept with the data: JSON, with `problems` where it is not as published.

    A missing video is none here; whoever looked for it adds it.
    """
    part, digest = SUBSETS[name], hashlib.sha256(path.read_bytes()).hexdigest()
    expected_hash, size = dict(part.list_hashes).get(split), dict(part.sizes).get(split)
    problems = []
    if expected_hash not in (None, digest):
        problems.append(f"{path.name} is not the released list: SHA-256 {digest[:12]}, expected {expected_hash[:12]}")
    if size not in (None, len(rows)):
        problems.append(f"{len(rows)} lines of {path.name} belong to {name}, expected {size}: is the list complete?")
    return {
        "name": name,
        "list": path.name,
        "list_sha256": digest,
        "rows": np.asarray(rows).tolist(),
        "labels": np.asarray(labels).tolist(),
        "problems": problems,
    }


def draw_samples(labels: np.ndarray, samples: int) -> np.ndarray:
    """Lines of a list, int, in the order in which the released code draws them.

    ceil(samples / number of classes that occur) of each class, in order of the classes; a class with fewer lines is
    taken whole, in drawn order.

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
      ValueError: no line belongs to the subset.
    """
    labels = np.asarray(labels)
    rows = np.arange(len(labels))
    if subset.classes is not None:
        rows = rows[np.isin(labels, subset.classes)]
    if subset.samples and split == subset.draws_from:
        rows = rows[draw_samples(labels[rows], subset.samples)]
    if not len(rows):
        span = f"{labels.min()}..{labels.max()}" if len(labels) else "none"
        raise ValueError(f"no line has a class of the subset ({subset.classes}); labels are {span}")
    return rows, labels[rows] - (subset.classes.start if subset.classes else 0)
