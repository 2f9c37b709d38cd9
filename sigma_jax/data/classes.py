"""The classes of a data set: how many, what they are called, and a hash that tells two label maps apart."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from sigma_jax.data.metadata import read_json, read_label_map
from sigma_jax.data.records import DataSetError
from sigma_jax.data.specs import SPECS
from sigma_jax.data.stills import open_stills


class Classes(NamedTuple):
    """`names` is empty where classes are numbers only."""

    num_classes: int
    names: tuple[str, ...]
    label_hash: str


def read_classes(data_dir: str | os.PathLike, split: str = "train") -> Classes:
    """From label_map.txt, the class folders of images, or the labels that `tools.prepare` counted.

    Raises:
      DataSetError: none of these says anything.
    """
    names = read_label_map(Path(data_dir))
    if not names:
        stills = open_stills(data_dir, split)
        names = stills.class_names if stills else []
    if names:
        return Classes(len(names), tuple(names), label_hash(names))
    report = read_json(Path(data_dir, "prepare_report.json"))
    labels = {int(text) for part in report.values() for text in part["videos_per_class"] if text.isdecimal()}
    if not labels:
        raise DataSetError(
            f"{data_dir} has no classes: no label_map.txt, and no labels in prepare_report.json. Prepare videos that "
            "lie in one folder per class, or a list of `path label` lines"
        )
    return Classes(max(labels) + 1, (), f"{max(labels) + 1} numbers")


def label_hash(names: list[str]) -> str:
    """Hash of class names in order, 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def check_known(name: str, classes: Classes) -> None:
    """Raises DataSetError where a data set of SPECS has another number of classes than it should."""
    if name in SPECS and SPECS[name].num_classes != classes.num_classes:
        raise DataSetError(
            f"{name} has {SPECS[name].num_classes} classes, this folder {classes.num_classes}: wrong --data_dir or "
            "label map? For a part of it, or data of your own, choose dataset=folder"
        )
