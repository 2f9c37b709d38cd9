"""Labellings of a data set: its classes, or for the synthetic shapes motion, shape and both."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigma_jax.data.metadata import read_label_map
from sigma_jax.datasets.classes import read_classes
from sigma_jax.datasets.synthetic import MOTIONS, SHAPES


class Labelling(NamedTuple):
    """One way to label the clips of a data set."""

    labels: Callable[[np.ndarray], np.ndarray]  # stored labels [n ...] -> classes int [n]
    num_classes: int


def labellings(data_dir: str | Path) -> dict[str, Labelling]:
    """The labellings of a data set by name, from its label map or the labels that occur.

    There is one, `class`; or for classes called `<motion>-<shape>` there are `motion`, `shape` and `joint`.

    Raises:
        DataSetError: the data set has no classes.
    """
    names = read_label_map(Path(data_dir))
    whole = Labelling(lambda labels: labels, len(names) or read_classes(data_dir).num_classes)
    parts = [name.split("-") for name in names]
    if not names or not all(len(part) == 2 and part[0] in MOTIONS and part[1] in SHAPES for part in parts):
        return {"class": whole}
    motion = np.array([MOTIONS.index(part[0]) for part in parts])
    shape = np.array([SHAPES.index(part[1]) for part in parts])
    return {
        "motion": Labelling(_looked_up(motion), len(MOTIONS)),
        "shape": Labelling(_looked_up(shape), len(SHAPES)),
        "joint": whole,
    }


def _looked_up(table: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda labels: table[labels]
