"""Memory through which workers hand clips over, used again and again.

Fresh shared memory is handed out page by page: 2 ms for a clip that takes 5 ms to read, where it was measured
(launch/BENCHMARKS.md). So the main process makes a few slots for each worker before it starts; a worker fills its own
in turn, and the main process copies a slot out and frees it.
"""

import os
import time
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from sigma_jax.runtime.errors import UserError

_TAKEN, _CLOSED, _DATA = 0, 1, 64  # bytes of a slot: is it filled; is nobody left to empty it; content
_SHARED = "/dev/shm"  # where Linux keeps shared memory
_place = {"worker": 0}  # of this process among the workers


def enter_worker(worker: int) -> None:
    """To be called once in worker process number `worker`."""
    _place["worker"] = worker


class NoSharedMemory(UserError, OSError):
    """The machine has less than the workers need."""


class Slots:
    """`per_worker` slots of `size` bytes for each worker. Pickled copies share the memory."""

    def __init__(self, num_workers: int, per_worker: int, size: int):
        """Raises NoSharedMemory where the machine has less shared memory than that."""
        needed, per_slot = num_workers * per_worker * (_DATA + size), _DATA + size
        free = os.statvfs(_SHARED).f_bavail * os.statvfs(_SHARED).f_frsize if os.path.isdir(_SHARED) else needed
        if free < needed:
            raise NoSharedMemory(
                f"{num_workers} data workers need {needed / 2**20:.0f} MiB of shared memory, {_SHARED} has "
                f"{free / 2**20:.0f} free: give the machine more (docker: --shm-size=8g), or take a smaller batch per "
                "host, or --config.data.num_workers=0"
            )
        self.per_worker, self._turn = per_worker, 0
        self._not_heard_of = set(range(num_workers))
        self._slots = [SharedMemory(create=True, size=per_slot) for _ in range(num_workers * per_worker)]

    def take(self, shape: tuple[int, ...]) -> tuple[int, np.ndarray]:
        """In a worker: (number, uint8 array with old content) of its next slot, once it is free."""
        number = _place["worker"] * self.per_worker + self._turn % self.per_worker
        self._turn += 1
        slot = self._slots[number].buf
        while slot[_TAKEN] and not slot[_CLOSED]:
            time.sleep(0.001)
        slot[_TAKEN] = 1
        return number, self._array(number, shape)

    def empty(self, number: int, out: np.ndarray) -> None:
        """In the main process: copies a slot's content to `out`, uint8, and frees the slot."""
        out[...] = self._array(number, out.shape)
        self._slots[number].buf[_TAKEN] = 0
        if self._not_heard_of:
            self._not_heard_of.discard(number // self.per_worker)
            if not self._not_heard_of:
                self._forget_names()

    def _forget_names(self) -> None:
        """Once all workers have it, memory without a name ends with its processes, also when all are killed at once."""
        for slot in self._slots:
            slot.unlink()

    def _array(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.ndarray(shape, np.uint8, self._slots[number].buf, offset=_DATA)

    def release(self) -> None:
        """Lets workers that wait for a slot go on, to their end."""
        for slot in self._slots:
            slot.buf[_CLOSED] = 1

    def close(self) -> None:
        """Gives the memory back, in the main process when the workers have ended."""
        if self._not_heard_of:
            self._forget_names()
        for slot in self._slots:
            slot.close()
        self._slots = []
