"""Weights files as memory-mapped arrays: a file is read where it is used, and no copy of it stays in memory."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np


def map_file(path: str | Path) -> np.ndarray:
    """The bytes of a file, uint8 [size], read-only; pages come into memory when they are touched.

    Raises:
      ValueError: the file is empty.
    """
    return np.memmap(path, np.uint8, "r")


def drop_pages(array: np.ndarray) -> None:
    """Takes the pages of the file that `array` is a view of out of this process's memory; others are left alone.

    The array stays valid: what is touched again is read again.
    """
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
