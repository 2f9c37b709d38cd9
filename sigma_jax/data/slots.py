"""Memory through which workers hand clips over, used again and again.

Fresh shared memory is handed out page by page: 2 ms for a clip that takes 5 ms to read, where it was measured
(launch/BENCHMARKS.md). So the main process makes a few slots for each worker before it starts, all pages at once; a
worker fills its own in turn, and the main process copies a slot out and frees it.
"""

import mmap
import os
import tempfile
import time

import numpy as np

from sigma_jax.runtime.errors import UserError

_TAKEN, _CLOSED, _DATA = 0, 1, 64  # bytes of a slot: is it filled; is nobody left to empty it; content
_SHARED = "/dev/shm"  # where Linux keeps shared memory
_place = {"worker": 0}  # of this process among the workers


class TooLittleMemory(UserError, OSError):
    """The machine has less shared memory than the workers need."""


def enter_worker(worker: int) -> None:
    """To be called once in worker process number `worker`."""
    _place["worker"] = worker


class Slots:
    """`per_worker` slots of `size` bytes for each worker. Pickled copies share the memory, in this process's children.

    On Linux the memory is a file without a name, which the children open by way of this process: whatever is killed,
    and whenever, nothing is left of it when they all have ended.
    """

    def __init__(self, num_workers: int, per_worker: int, size: int):
        """Raises TooLittleMemory where the machine has less shared memory than that."""
        self.per_worker, self._turn = per_worker, 0
        self._slot_bytes = _DATA + -(-size // _DATA) * _DATA
        self._bytes = num_workers * per_worker * self._slot_bytes
        nameless = os.path.isdir(_SHARED)
        self._file = tempfile.TemporaryFile(dir=_SHARED) if nameless else tempfile.NamedTemporaryFile()  # noqa: SIM115
        self._path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}" if nameless else self._file.name
        try:
            _reserve(self._file.fileno(), self._bytes)
        except OSError as error:
            self._file.close()
            raise TooLittleMemory(
                f"{num_workers} data workers need {self._bytes / 2**20:.0f} MiB of shared memory, and {_SHARED} does "
                f"not have them ({error.strerror}): give the machine more (docker: --shm-size=8g), or take a smaller "
                "batch per host, or --config.data.num_workers=0"
            ) from error
        self._memory = mmap.mmap(self._file.fileno(), self._bytes)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_file", "_memory")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        with open(self._path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), self._bytes)

    def take(self, shape: tuple[int, ...]) -> tuple[int, np.ndarray]:
        """In a worker: (number, uint8 array with old content) of its next slot, once it is free."""
        number = _place["worker"] * self.per_worker + self._turn % self.per_worker
        self._turn += 1
        slot = number * self._slot_bytes
        while self._memory[slot + _TAKEN] and not self._memory[slot + _CLOSED]:
            time.sleep(0.001)
        self._memory[slot + _TAKEN] = 1
        return number, self._array(number, shape)

    def empty(self, number: int, out: np.ndarray) -> None:
        """In the main process: copies a slot's content to `out`, uint8, and frees the slot."""
        out[...] = self._array(number, out.shape)
        self._memory[number * self._slot_bytes + _TAKEN] = 0

    def _array(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.ndarray(shape, np.uint8, self._memory, offset=number * self._slot_bytes + _DATA)

    def release(self) -> None:
        """Lets workers that wait for a slot go on, to their end."""
        for slot in range(0, self._bytes, self._slot_bytes):
            self._memory[slot + _CLOSED] = 1

    def close(self) -> None:
        """Gives the memory back, in the main process when the workers have ended."""
        self._memory.close()
        self._file.close()


def _reserve(file: int, size: int) -> None:
    """Raises OSError where so many bytes cannot be had; without this the first write to a missing page is a crash."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        os.ftruncate(file, size)
