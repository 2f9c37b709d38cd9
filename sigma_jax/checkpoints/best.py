"""The best parameters of a run by one of its measurements, beside its checkpoints."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from sigma_jax.checkpoints.manager import Checkpointer, CheckpointError, SaveFailed, read_meta
from sigma_jax.checkpoints.storage import absolute
from sigma_jax.runtime.trees import Params


def best_folder(checkpoint_dir: str | Path) -> epath.Path:
    """Where the best weights of a run lie, given the folder or bucket of its checkpoints.

    `run/best` beside `run/checkpoints`; a folder of another name may hold the checkpoints of one run only, so there
    it is `best` beside the steps themselves.
    """
    folder = absolute(checkpoint_dir)
    return (folder.parent if folder.name == "checkpoints" else folder) / "best"


class BestWeights:
    """Keeps the parameters with the highest number (such as "val/top1") in a folder; survives restarts.

    Process 0 decides for all: numbers and what a host sees of a folder may differ, a save must not.
    """

    def __init__(self, directory: str | Path, name: str, meta: Callable[[], dict]):
        self.directory, self.meta, self._field = absolute(directory), meta, name.replace("/", "_")
        self._highest: float | None = None  # of process 0

    def offer(self, step: int, params: Params, number: float) -> bool:
        """Saves `params` if they are better than what the folder holds; of equals the first stays.

        Returns whether they were saved. A save that fails is reported, and the next better ones are saved again.
        """
        if not self._is_better(number):
            return False
        checkpoints = Checkpointer(self.directory, keep_last=1, save_every_steps=1)
        try:
            meta = self.meta() | {self._field: number}
            checkpoints.save(step, {"params": params}, data_state={}, meta=meta, force=True)
            checkpoints.require(step)
        except SaveFailed:
            logging.error("the best weights so far (%s %s at step %d) are not kept", self._field, number, step)
            return False
        finally:
            checkpoints.close()
        self._highest = number
        return True

    def _is_better(self, number: float) -> bool:
        better = False
        if jax.process_index() == 0:
            if self._highest is None:
                self._highest = self._saved()
            better = number > self._highest
        if jax.process_count() > 1:
            better = bool(multihost_utils.broadcast_one_to_all(np.int32(better)))
        return better

    def _saved(self) -> float:
        try:
            return float(read_meta(self.directory).get(self._field, -np.inf))
        except CheckpointError:
            return -np.inf
