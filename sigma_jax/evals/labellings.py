"""What is asked of a labelled data set: its classes; of the synthetic shapes also motion and shape by themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigma_jax.data.metadata import read_label_map
from sigma_jax.datasets.classes import read_classes
from sigma_jax.datasets.synthetic import MOTIONS, SHAPES


class Labelling(NamedTuple):
    """One question asked of the same clips."""

    labels: Callable[[np.ndarray], np.ndarray]  # stored labels [n ...] -> classes int [n]
    num_classes: int


def labellings(data_dir: str | Path) -> dict[str, Labelling]:
    """Name -> question, from the label map or the labels that occur.

    The question is `class`, or for `<motion>-<shape>` classes `motion`, `shape` and `joint`.

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
