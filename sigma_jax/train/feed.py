"""Prefetching to the devices: the next batch is copied while the current step runs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from sigma_jax.data.loader import Loader

HostBatch = dict[str, np.ndarray]
DeviceBatch = dict[str, jax.Array]


class _Drawn(NamedTuple):
    host: HostBatch
    device: DeviceBatch
    position: dict[str, int]  # of the loader, after this batch


class DeviceFeed:
    """Iterator over batches that returns batch k after it has started the copy of batch k + 1.

    A copy requested after step k was dispatched would start only when step k has ended, and step k + 1 would wait for
    it. Prefetching costs the memory of one batch.

    Args:
      loader: positioned at the batch of step `first`.
      place: copies a batch of this process to the devices.
      first: steps that are done.
      total: steps of the whole run; no batch is read beyond the last one.

    Attributes:
      step: steps whose batches were handed out, counted from the start of the run.
    """

    def __init__(self, loader: Loader, place: Callable[[HostBatch], DeviceBatch], first: int, total: int):
        self._loader, self._place = loader, place
        self.step, self._drawn, self._total = first, first, total
        self._position = loader.state()
        self._ahead: _Drawn | None = None

    def __next__(self) -> tuple[HostBatch, DeviceBatch]:
        """(the next batch as it was read, the same on the devices)."""
        current = self._ahead or self._draw()
        self._ahead = self._draw() if self._drawn < self._total else None
        self._position = current.position
        self.step += 1
        return current.host, current.device

    def _draw(self) -> _Drawn:
        host = next(self._loader)
        self._drawn += 1
        return _Drawn(host, self._place(host), self._loader.state())

    def state(self) -> dict[str, int]:
        """The loader's position after the last batch that was handed out: what a checkpoint keeps."""
        return self._position
