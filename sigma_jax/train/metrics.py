"""Writes a run's metrics (`metrics.jsonl` and TensorBoard, on process 0), and measures its throughput."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

import numpy as np
from jax.typing import ArrayLike

from sigma_jax.runtime.files import replacing


class MetricWriter:
    """Writes named scalars per step; does nothing where `active` is False (every process but 0).

    `workdir/metrics.jsonl` holds one JSON object per line, `{"step": 120, "loss": 8.01, ...}`, flushed line by line;
    a non-finite value is the string "nan", "inf" or "-inf" (`float()` reads it back). `workdir/tensorboard` holds the
    same numbers. A run that resumes at `resume_step` repeats the steps after it: their old lines, and a line cut short
    by a kill, are dropped first. `workdir/warnings.jsonl` is treated in the same way.
    """

    def __init__(self, workdir: str | Path, active: bool, resume_step: int = 0):
        self._active = active
        if not active:
            return
        with _without("torch"):  # tensorboardX imports it if it can: seconds, for tensors that are never written
            from tensorboardX import SummaryWriter  # imported where it is used: process 0 only

        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        self._file, self._warnings = (
            _open_after(workdir / name, resume_step) for name in ("metrics.jsonl", "warnings.jsonl")
        )
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, metrics: Mapping[str, ArrayLike]) -> None:
        """Writes one line for `step`; values are scalars (Python, numpy or jax). Raises ValueError for an array."""
        if not self._active:
            return
        numbers = {name: _scalar(name, value) for name, value in metrics.items()}
        row = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        self._file.write(json.dumps({"step": int(step), **row}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def warn(self, step: int, text: str) -> None:
        """Writes a line of `warnings.jsonl`, which the report shows."""
        if self._active:
            self._warnings.write(json.dumps({"step": int(step), "warning": text}) + "\n")
            self._warnings.flush()

    def close(self) -> None:
        """Flush and close the files; the last call."""
        if self._active:
            self._file.close()
            self._warnings.close()
            self._board.close()
            self._active = False


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """Context in which a package that is not imported yet cannot be."""
    hidden = package not in sys.modules
    if hidden:
        sys.modules[package] = None
    yield
    if hidden:
        del sys.modules[package]


def _scalar(name: str, value: ArrayLike) -> int | float:
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"metric {name!r} has shape {array.shape}, expected a scalar: reduce it in the step")
    number = array.item()
    return number if type(number) is int else float(number)


def _open_after(path: Path, last_step: int) -> TextIO:
    """The file, to be appended to, without the lines of steps after `last_step`."""
    kept = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError):
            continue  # cut short when the process was killed, or damaged by a crash of the machine
        if step <= last_step:
            kept.append(line + "\n")
    with replacing(path) as partial:
        partial.write_text("".join(kept))
    return path.open("a")


class Throughput:
    """Clips per second, ms per step and ms waiting for data, averaged since the last `read`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Start a new interval; also call it after a pause that should not count (evaluation, first compile)."""
        self._start = self._clock()
        self._clips = self._steps = 0
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context around fetching the next batch: its time counts as waiting for data."""
        begin = self._clock()
        yield
        self._waited += self._clock() - begin

    def count(self, clips: int) -> None:
        """Count one step over `clips` clips (the global batch)."""
        self._clips += clips
        self._steps += 1

    def read(self) -> dict[str, float]:
        """`clips_per_s`, `step_ms`, `data_wait_ms` (per step), then reset; {} before any step."""
        seconds, steps = self._clock() - self._start, self._steps
        if not steps or seconds <= 0:
            return {}
        result = {
            "clips_per_s": self._clips / seconds,
            "step_ms": 1e3 * seconds / steps,
            "data_wait_ms": 1e3 * self._waited / steps,
        }
        self.reset()
        return result
