"""The best parameters of a run by one of its measurements, in a folder of their own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sigma_jax.checkpoints.manager import Checkpointer, CheckpointError, read_meta
from sigma_jax.runtime.trees import Params


class BestWeights:
    """Keeps the parameters with the highest number (such as "val/top1") in a folder; survives restarts."""

    def __init__(self, directory: Path, name: str, meta: Callable[[], dict]):
        self.directory, self.meta, self._field, self._highest = directory, meta, name.replace("/", "_"), None

    def offer(self, step: int, params: Params, number: float) -> None:
        """Saves `params` if they are better than what the folder holds; of equals the first stays."""
        if self._highest is None:
            self._highest = self._saved()
        if number <= self._highest:
            return
        checkpoints = Checkpointer(self.directory, keep_last=1, save_every_steps=1)
        try:
            meta = self.meta() | {self._field: number}
            checkpoints.save(step, {"params": params}, data_state={}, meta=meta, force=True)
        finally:
            checkpoints.close()
        self._highest = number

    def _saved(self) -> float:
        try:
            return float(read_meta(self.directory)[self._field])
        except CheckpointError:
            return -np.inf
