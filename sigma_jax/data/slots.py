"""Memory in which worker processes lay down batches, used again and again.

Fresh shared memory is handed out page by page: 2 ms for a clip that takes 5 ms to read, where it was measured
(launch/BENCHMARKS.md). So the main process makes room for a few batches before it starts, all pages at once. It tells
the workers which room each coming batch gets; they fill it chunk by chunk, and the main process lends the whole batch
out without a copy. When the last array (or device buffer) that refers to it is gone, the room is free again.
"""

import collections
import mmap
import os
import tempfile
import time
import weakref
from dataclasses import dataclass

import numpy as np

from sigma_jax.runtime.errors import UserError

LENT = 2  # batches that may be lent at once: the one in use and the one after it; others are copied
_SHARED = "/dev/shm"  # where Linux keeps shared memory
_PAGE = 4096


class TooLittleMemory(UserError, OSError):
    """The machine has less shared memory than the workers need."""


@dataclass(frozen=True)
class Rooms:
    """How much memory: `count` rooms for batches, each of `chunks` parts of `chunk_bytes`."""

    count: int
    chunks: int
    chunk_bytes: int

    @property
    def room_bytes(self) -> int:
        return -(-self.chunks * self.chunk_bytes // _PAGE) * _PAGE

    @property
    def total_bytes(self) -> int:
        return _PAGE + self.count * self.room_bytes  # the first page is the notice board


class Slots:
    """Rooms for the batches from `first_batch` on. Pickled copies, in children of this process, share the memory.

    On Linux the memory is a file without a name, which the children open by way of this process: whatever is killed,
    and whenever, nothing is left of it when they all have ended.
    """

    def __init__(self, rooms: Rooms, first_batch: int = 0):
        """Raises TooLittleMemory where the machine has less shared memory than that."""
        self.rooms = rooms
        nameless = os.path.isdir(_SHARED)
        self._file = tempfile.TemporaryFile(dir=_SHARED) if nameless else tempfile.NamedTemporaryFile()  # noqa: SIM115
        self._path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}" if nameless else self._file.name
        try:
            _reserve(self._file.fileno(), rooms.total_bytes)
        except OSError as error:
            self._file.close()
            raise TooLittleMemory(
                f"the data workers need {rooms.total_bytes / 2**20:.0f} MiB of shared memory, and {_SHARED} does not "
                f"have them ({error.strerror}): give the machine more (docker: --shm-size=8g), or take a smaller batch "
                "per host, or --config.data.num_workers=0"
            ) from error
        self._map(self._file.fileno())
        self._free, self._lent = collections.deque(range(rooms.count)), set()
        self._next_batch = first_batch  # that has no room yet
        self._announce()

    def _map(self, file: int) -> None:
        self._memory = np.frombuffer(mmap.mmap(file, self.rooms.total_bytes), np.uint8)
        # where batch b will be: board[b % count] holds (b + 1) * count + room; board[-1] is 1 when all is over
        self._board = self._memory[: 8 * (self.rooms.count + 1)].view(np.int64)

    def __getstate__(self) -> dict:
        return {"rooms": self.rooms, "_path": self._path}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        with open(self._path, "r+b") as file:
            self._map(file.fileno())

    def take(self, chunk: int, shape: tuple[int, ...]) -> np.ndarray:
        """In a worker: the part of memory for a chunk, uint8 with old content, once its batch has a room."""
        batch, part = divmod(chunk, self.rooms.chunks)
        while not self._board[-1]:
            known, room = divmod(int(self._board[batch % self.rooms.count]), self.rooms.count)
            if known == batch + 1:
                return self._array(room, part * self.rooms.chunk_bytes, shape)
            time.sleep(0.001)
        return np.zeros(shape, np.uint8)  # nobody will ask for it

    def hand_out(self, batch: int, shape: tuple[int, ...]) -> np.ndarray:
        """In the main process: batch number `batch`, all of whose chunks are filled, uint8 of `shape`.

        Lent as long as the array or a part of it is used anywhere; a copy where LENT batches are lent already.
        """
        room = int(self._board[batch % self.rooms.count]) % self.rooms.count
        video = self._array(room, 0, shape)
        if len(self._lent) < LENT:
            loan = _Loan(video)
            self._lent.add(room)
            weakref.finalize(loan, _give_back, room, self._lent, self._free).atexit = False
            video = np.asarray(loan)
        else:
            video = video.copy()
            self._free.append(room)
        self._announce()
        return video

    def _announce(self) -> None:
        """Gives rooms that are free to the batches that come next."""
        while self._free:
            room = self._free.popleft()
            self._board[self._next_batch % self.rooms.count] = (self._next_batch + 1) * self.rooms.count + room
            self._next_batch += 1

    def _array(self, room: int, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        start = _PAGE + room * self.rooms.room_bytes + offset
        return self._memory[start : start + int(np.prod(shape))].reshape(shape)

    def release(self) -> None:
        """Lets workers that wait for a room go on, to their end."""
        self._board[-1] = 1

    def close(self) -> None:
        """Gives the memory back, in the main process when the workers have ended; what is lent stays until then."""
        self._file.close()


class _Loan:
    """Lent memory: the base of every array that refers to it."""

    def __init__(self, memory: np.ndarray):
        self.memory = memory
        self.__array_interface__ = memory.__array_interface__


def _give_back(room: int, lent: set[int], free: collections.deque) -> None:
    """When a loan ends; may run in any thread."""
    lent.discard(room)
    free.append(room)


def _reserve(file: int, size: int) -> None:
    """Raises OSError where so many bytes cannot be had; without this the first write to a missing page is a crash."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        os.ftruncate(file, size)
