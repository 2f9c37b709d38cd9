"""The best parameters of a run by one of its measurements, kept beside its checkpoints."""

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
    """The folder of a run's best weights, given the folder or bucket of its checkpoints.

    It is `run/best` beside `run/checkpoints`. A checkpoint folder with another name holds the checkpoints of one run
    only, so there it is `best` inside the folder, beside the steps.
    """
    folder = absolute(checkpoint_dir)
    return (folder.parent if folder.name == "checkpoints" else folder) / "best"


class BestWeights:
    """Keeps the parameters with the highest value of a measurement in a folder, also over restarts of the run.

    Process 0 decides for all processes, which must save together: measurements and the state of a folder may differ
    between hosts.

    Args:
      directory: where the parameters are saved.
      name: of the measurement, such as "val/top1".
      meta: returns what is saved with them, JSON.
    """

    def __init__(self, directory: str | Path, name: str, meta: Callable[[], dict]):
        self.directory, self.meta, self._field = absolute(directory), meta, name.replace("/", "_")
        self._highest: float | None = None  # of process 0

    def offer(self, step: int, params: Params, number: float) -> bool:
        """Saves `params` if `number` is higher than that of the saved ones; returns whether they were saved.

        A save that fails is logged, and the next better parameters are saved as if it had not been tried.
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
