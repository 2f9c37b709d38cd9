"""A lock by which one program at a time owns a folder: a file in it that names the owner and shows that it is alive.

The file is created atomically, as a hard link, which network file systems support, too. Whether an owner on the same
machine is alive is looked up in the process table. An owner on another machine increments a number in the file (a
heartbeat) every few seconds, and a program that wants the folder watches that number; clocks are not compared, and the
file system's own locks are not used. The lock of a dead owner is taken over, so that a run that was killed can be
started again with the same command.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import logging

from sigma_jax.runtime.errors import UserError

NAME = ".owner.json"
BEAT_SECONDS = 5.0
# An owner on another machine without a heartbeat for so long is taken to be dead. Network file systems show a change
# late, and a compilation may keep Python's threads waiting.
SILENT_SECONDS = 30.0


class FolderInUse(UserError, RuntimeError):
    """Another living program owns the folder; the message says which."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """The owner of a folder, as its lock file describes it.

    Attributes:
      token: a random name of the lock, which all processes of a run accept as theirs.
      host: host name, for messages.
      machine: identifies the boot and the process table in which `pid` is valid.
      pid: number of the process.
      started: start of the process in clock ticks after boot, because process numbers are reused.
      since: local time at which the folder was locked, for messages.
      command: command line, for messages.
      folder: resolved path of the folder; in a copy of the folder it differs.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: str
    since: str
    command: str
    folder: str

    @classmethod
    def here(cls, folder: str | os.PathLike) -> "Owner":
        """This process, as the owner of a folder."""
        command = shlex.join(["python", *sys.orig_argv[1:]])[:500]
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()),
            since=now,
            command=command,
            folder=os.path.realpath(folder),
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since} ({self.command})"

    def is_dead(self, folder: str | os.PathLike) -> bool | None:
        """Whether the owner is dead; None where this machine cannot know, or the folder may be a copy."""
        if self.machine != _machine() or self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # a process of another user: alive, though its start time may be hidden
            return _started(self.pid) not in ("", self.started)
        if _started(self.pid) != self.started:
            return True
        return False if self.folder == os.path.realpath(folder) else None


def _machine() -> str:
    """Identifies the boot and the process table of this machine; containers have process tables of their own."""
    boot, table = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    try:
        return f"{boot.read_text().strip()} {os.readlink(table)}"
    except OSError:  # no Linux
        return "one table"


def _started(pid: int) -> str:
    """Start of a process in clock ticks after boot; "" for one that has ended, including zombies."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "unknown" if not os.path.isdir("/proc/self") else ""
    return "" if fields[0] == "Z" else fields[19]


def _read(path: Path) -> tuple[Owner, int] | None:
    """(owner, its heartbeat number) of a lock file; None if there is no file."""
    try:
        found = json.loads(path.read_text())
        beats = found.pop("beats")
        return Owner(**found), beats
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):  # half-written, on a file system without hard links
        return Owner("", "an unknown host", "", 0, "", "an unknown time", "unreadable lock", ""), -1


class FolderLock:
    """The lock of one folder, held from `take` to `release`.

    Args:
      folder: must exist.
      on_lost: called from a thread, with a message, when another program has taken the folder over because this process
        was suspended for long. The process must not write to the folder any more: usually the callback ends it.
    """

    def __init__(self, folder: str | os.PathLike, on_lost: Callable[[str], None]):
        self.path = Path(folder) / NAME
        self.owner = Owner.here(folder)
        self._beats, self._on_lost = 0, on_lost
        self._claimers: dict[str, float] = {}  # token of a process that is removing a dead owner's lock -> seen since
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True, name=f"owner of {folder}")

    def take(self, friend: str = "") -> bool:
        """Locks the folder for this process; waits while it finds out whether an owner elsewhere is alive.

        Args:
          friend: token of a process of the same run, which may own the folder already.

        Returns:
          Whether this process owns the folder; False where `friend` owns it.

        Raises:
          FolderInUse: another living program owns it.
          OSError: no file can be written to the folder.
        """
        while not self._create(self.path):
            found = _read(self.path)
            if found is None:  # gone, or being written
                time.sleep(0.05)
                continue
            owner = found[0]
            if friend and owner.token == friend:  # a half-written lock has no token either
                return False
            dead = owner.is_dead(self.path.parent)
            if dead is None:
                logging.warning("%s belongs to %s: watching whether it is alive", self.path.parent, owner)
                dead = self._is_silent(owner)
            if not dead:
                raise FolderInUse(
                    f"{self.path.parent} is in use by {owner}. Wait for its end, stop it, or choose another folder"
                )
            logging.warning("%s belonged to %s, which has ended without giving it back", self.path.parent, owner)
            self._remove(owner)
        self._keeper.start()
        return True

    def release(self) -> None:
        """Removes the lock, if this process owns it."""
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join()
        with contextlib.suppress(OSError):
            if self._is_mine():
                self.path.unlink()

    def _create(self, path: Path) -> bool:
        """Creates a lock or a claim file atomically; False if it exists."""
        draft = self._draft()
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with open(path, "x") as file:
                    file.write(draft.read_text())
            except FileExistsError:
                return False
        finally:
            draft.unlink()
        return True

    def _draft(self) -> Path:
        """Writes the content of a lock to a file beside it, to be linked or renamed; returns its path."""
        draft = self.path.with_name(f"{NAME}.{self.owner.token}")
        try:
            draft.write_text(json.dumps(dataclasses.asdict(self.owner) | {"beats": self._beats}, indent=1) + "\n")
        except OSError:  # on a full disk an empty file remains
            draft.unlink(missing_ok=True)
            raise
        return draft

    def _is_silent(self, owner: Owner) -> bool:
        """Watches an owner on another machine; True if it has no heartbeat for SILENT_SECONDS, or releases the lock."""
        first, deadline = self._sign(), time.monotonic() + SILENT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, SILENT_SECONDS / 10))
            now = _read(self.path)
            if now is None or now[0].token != owner.token:
                return now is None
            if self._sign() != first:
                return False
        return True

    def _sign(self) -> tuple[int, int]:
        """(heartbeat number, modification time) of the lock: a living owner changes the time even on a full disk."""
        with contextlib.suppress(OSError):
            found = _read(self.path)
            return (found[1] if found else -2), self.path.stat().st_mtime_ns
        return -2, 0

    def _remove(self, owner: Owner) -> None:
        """Removes a dead owner's lock; only the process that holds its claim may, so that no new lock is removed."""
        claims: list[Path] = []
        try:
            if not self._claim(owner.token, claims):
                time.sleep(0.05)
                return
            found = _read(self.path)
            if found is not None and found[0].token == owner.token:
                self.path.unlink()
            self.path.with_name(f"{NAME}.{owner.token}").unlink(missing_ok=True)  # a draft that it was writing
        finally:
            for claim in claims:
                claim.unlink(missing_ok=True)

    def _claim(self, token: str, claims: list[Path]) -> bool:
        """Whether this process alone may remove a dead owner's lock; the claim files that it holds go into `claims`.

        The claim of a process that died itself is taken over by claiming that process in the same way.
        """
        path = self.path.with_name(f"{NAME}.claim.{token}")
        if self._create(path):
            claims.append(path)
            return True
        found = _read(path)
        if found is None:
            return False
        claimer = found[0]
        since = self._claimers.setdefault(claimer.token, time.monotonic())
        dead = claimer.is_dead(self.path.parent)
        if not (dead or dead is None and time.monotonic() - since > SILENT_SECONDS):
            return False
        if not self._claim(claimer.token, claims):
            return False
        claims.append(path)
        return True

    def _is_mine(self) -> bool:
        found = _read(self.path)
        return found is not None and found[0].token == self.owner.token

    def _keep(self) -> None:
        """Writes the heartbeat, by which other machines know that this process is alive."""
        while not self._ended.wait(BEAT_SECONDS):
            self._beats += 1
            with contextlib.suppress(OSError):  # a full disk, or a network that is down for a while
                found = _read(self.path)
                if found is not None and found[0].token != self.owner.token:
                    self._on_lost(
                        f"{self.path.parent} was taken over by {found[0]}, because this process was silent for more "
                        f"than {SILENT_SECONDS:g} s: it stops, the other one goes on"
                    )
                    return
                if found is not None:
                    os.utime(self.path)
                    os.replace(self._draft(), self.path)


def owner_of(folder: str | os.PathLike) -> Owner | None:
    """The owner of a folder; None if it is not locked, or the owner is known to be dead."""
    found = _read(Path(folder) / NAME)
    return found[0] if found is not None and not found[0].is_dead(folder) else None


@contextlib.contextmanager
def owned(folder: str | os.PathLike, on_lost: Callable[[str], None]) -> Iterator[None]:
    """Creates the folder and holds its lock inside the block; see FolderLock.

    Raises:
      FolderInUse: another living program owns it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder, on_lost)
    lock.take()
    try:
        yield
    finally:
        lock.release()
