"""The classes of a data set: their number, their names, and a hash of the label map."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sigma_jax.data.class_names import spelling
from sigma_jax.data.metadata import label_hash, read_label_map, read_reports
from sigma_jax.data.records import DataSetError
from sigma_jax.data.source import open_source
from sigma_jax.datasets.specs import LABEL_HASHES, NOT_SHIPPED, SPECS
from sigma_jax.datasets.subsets import SUBSETS


class Classes(NamedTuple):
    """Number, names (empty if classes are numbers only) and hash of the label map."""

    num_classes: int
    names: tuple[str, ...]
    label_hash: str


def read_classes(data_dir: str | os.PathLike, split: str = "train") -> Classes:
    """Reads the classes from label_map.txt, the class folders of images, or the labels that `tools.prepare` counted.

    Raises:
      DataSetError: none of these exists.
    """
    names = read_label_map(Path(data_dir))
    if not names:
        names = open_source(data_dir, split).classes
    if names:
        return Classes(len(names), tuple(names), label_hash(names))
    reports = read_reports(Path(data_dir))
    labels = {int(text) for part in reports.values() for text in part.get("videos_per_class", ()) if text.isdecimal()}
    if not labels:
        raise DataSetError(
            f"{data_dir} has no classes: no label_map.txt, and no labels in prepare_report.json. Prepare videos that "
            "lie in one folder per class, or a list of `path label` lines"
        )
    return Classes(max(labels) + 1, (), f"{max(labels) + 1} numbers")


def shipped_names(name: str) -> list[str]:
    """Class names of the data set `name` in order, checked against LABEL_HASHES; [] where none are shipped."""
    if name in SUBSETS:
        names, part = shipped_names(SUBSETS[name].of), SUBSETS[name]
        return names[part.classes.start : part.classes.stop] if part.classes else names
    if name not in LABEL_HASHES or name in NOT_SHIPPED:
        return []
    names = (Path(__file__).with_name("label_maps") / f"{name}.txt").read_text("utf-8").splitlines()
    if label_hash(names) != LABEL_HASHES[name]:
        raise DataSetError(
            f"label_maps/{name}.txt has hash {label_hash(names)}, not {LABEL_HASHES[name]}: install again"
        )
    return names


def check_names(name: str, names: Sequence[str], where: str) -> None:
    """Raises DataSetError where class names are not those of the data set `name`, in its order."""
    if name in NOT_SHIPPED:
        _check_hash(name, names, where)
        return
    expected = shipped_names(name)
    if not expected or list(map(spelling, names)) == list(map(spelling, expected)):
        return
    pairs = enumerate(itertools.zip_longest(names, expected))
    index, (found, wanted) = next((i, pair) for i, pair in pairs if None in pair or len(set(map(spelling, pair))) > 1)
    raise DataSetError(
        f"{where} is not the label map of {name}: {len(names)} classes with hash {label_hash(list(names))}, expected "
        f"{len(expected)} with {label_hash(expected)}; class {index} is {found!r}, expected {wanted!r}. Scores of "
        f"other classes are no {name} scores"
    )


def _check_hash(name: str, names: Sequence[str], where: str) -> None:
    found, expected = label_hash(list(names)), LABEL_HASHES[name]
    if found != expected:
        raise DataSetError(
            f"{where} is not the label map of {name}: {len(names)} classes with hash {found}, expected "
            f"{SPECS[name].num_classes} with {expected}. Give the list that was released with {name}; scores of other "
            f"classes are no {name} scores"
        )


def check_known(name: str, classes: Classes) -> None:
    """Raises DataSetError where a data set of SPECS has other classes than it should."""
    if name in SPECS and SPECS[name].num_classes != classes.num_classes:
        raise DataSetError(
            f"{name} has {SPECS[name].num_classes} classes, this folder {classes.num_classes}: wrong --data_dir or "
            "label map? For a part of it, or data of your own, choose dataset=folder"
        )
    if classes.names:
        check_names(name, classes.names, "label_map.txt of this folder")
