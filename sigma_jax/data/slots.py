"""Shared memory into which worker processes write batches; it is allocated once and reused.

The kernel allocates fresh shared memory page by page, which was measured to take 2 ms for a clip that takes 5 ms to
read (launch/BENCHMARKS.md). So the main process allocates rooms for a few batches in advance. It announces to the
workers which room each coming batch gets; they fill it chunk by chunk, and the main process lends the whole batch to
its user without a copy. When the last array (or device buffer) that refers to the batch is deleted, the room is free
again.
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

LENT = 2  # batches that may be lent at the same time: the one in use and the next one; further ones are copied
_SHARED = "/dev/shm"  # where Linux keeps shared memory
_PAGE = 4096


class TooLittleMemory(UserError, OSError):
    """The machine has less shared memory than the workers need."""


@dataclass(frozen=True)
class Rooms:
    """Size of the memory: `count` rooms, each for a batch of `chunks` chunks of `chunk_bytes` bytes."""

    count: int
    chunks: int
    chunk_bytes: int

    @property
    def room_bytes(self) -> int:
        return -(-self.chunks * self.chunk_bytes // _PAGE) * _PAGE

    @property
    def total_bytes(self) -> int:
        return _PAGE + self.count * self.room_bytes  # the first page holds the announcements


class Slots:
    """Rooms for the batches from `first_batch` on. Pickled copies in child processes share the memory.

    On Linux the memory is a file without a name, which the children open through this process's entry in /proc. So the
    kernel frees it when all processes have ended, even if they were killed.
    """

    def __init__(self, rooms: Rooms, first_batch: int = 0):
        """Allocates the memory; raises TooLittleMemory if the machine does not have as much shared memory."""
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
        self._next_batch = first_batch  # the first batch that has no room yet
        self._announce()

    def _map(self, file: int) -> None:
        self._memory = np.frombuffer(mmap.mmap(file, self.rooms.total_bytes), np.uint8)
        # board[b % count] is (b + 1) * count + room once batch b has a room; board[-1] is 1 when reading has ended
        self._board = self._memory[: 8 * (self.rooms.count + 1)].view(np.int64)

    def __getstate__(self) -> dict:
        return {"rooms": self.rooms, "_path": self._path}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        with open(self._path, "r+b") as file:
            self._map(file.fileno())

    def take(self, chunk: int, shape: tuple[int, ...]) -> np.ndarray:
        """In a worker: waits until the chunk's batch has a room; returns its memory, uint8 with old content."""
        batch, part = divmod(chunk, self.rooms.chunks)
        while not self._board[-1]:
            known, room = divmod(int(self._board[batch % self.rooms.count]), self.rooms.count)
            if known == batch + 1:
                return self._array(room, part * self.rooms.chunk_bytes, shape)
            time.sleep(0.001)
        return np.zeros(shape, np.uint8)  # reading has ended, so nobody will use the chunk

    def hand_out(self, batch: int, shape: tuple[int, ...]) -> np.ndarray:
        """In the main process: returns a filled batch, uint8 of `shape`.

        The array is lent: its room is not reused as long as the array or a view of it exists. If LENT batches are lent
        already, it is a copy.
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
        """Assigns free rooms to the next batches, and announces them to the workers."""
        while self._free:
            room = self._free.popleft()
            self._board[self._next_batch % self.rooms.count] = (self._next_batch + 1) * self.rooms.count + room
            self._next_batch += 1

    def _array(self, room: int, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        start = _PAGE + room * self.rooms.room_bytes + offset
        return self._memory[start : start + int(np.prod(shape))].reshape(shape)

    def release(self) -> None:
        """Announces that reading has ended, so that workers stop waiting for a room."""
        self._board[-1] = 1

    def close(self) -> None:
        """Frees the memory once the workers have ended; in the main process. Lent batches stay valid."""
        self._file.close()


class _Loan:
    """The base object of lent arrays, whose deletion ends the loan."""

    def __init__(self, memory: np.ndarray):
        self.memory = memory
        self.__array_interface__ = memory.__array_interface__


def _give_back(room: int, lent: set[int], free: collections.deque) -> None:
    """Frees a room when its loan ends; may run in any thread."""
    lent.discard(room)
    free.append(room)


def _reserve(file: int, size: int) -> None:
    """Allocates `size` bytes or raises OSError; otherwise a write to a page that cannot be had would crash (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        os.ftruncate(file, size)
