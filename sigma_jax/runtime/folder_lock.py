"""One program at a time owns a folder: a file in it says who does, since when, and that it is still alive.

The file is made atomically (a hard link, which network file systems create atomically, too). An owner on this machine
is looked up in the process table; one elsewhere counts up a number in the file every few seconds, and whoever wants the
folder watches that number: no clocks are compared, and no file system's own locks are trusted. A dead owner's lock is
taken over, so a run that was killed starts again with the same command.
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
# So long an owner on another machine may be silent: network file systems show a change late, and a compiler may hold
# Python up.
SILENT_SECONDS = 30.0


class FolderInUse(UserError, RuntimeError):
    """Another program that is alive owns the folder; the message says which."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who owns a folder.

    token: names the run; all its processes share it. machine: boot and process table in which `pid` means something.
    started: when the process began, in clock ticks after boot, since numbers of processes come again. folder: as the
    owner calls it; a copy of the folder has another name.
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
        """Whether it owns this folder no more; None where this machine cannot know, or the folder may be a copy."""
        if self.machine != _machine() or self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's, whose details may be hidden: alive
            return _started(self.pid) not in ("", self.started)
        if _started(self.pid) != self.started:
            return True
        return False if self.folder == os.path.realpath(folder) else None


def _machine() -> str:
    """Boot and process table: containers of one machine have tables of their own."""
    boot, table = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    try:
        return f"{boot.read_text().strip()} {os.readlink(table)}"
    except OSError:  # no Linux
        return "one table"


def _started(pid: int) -> str:
    """When the process began; "" for one that has ended (also where nobody has asked for its status yet)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "unknown" if not os.path.isdir("/proc/self") else ""
    return "" if fields[0] == "Z" else fields[19]


def _read(path: Path) -> tuple[Owner, int] | None:
    """(owner, its number of beats) in a lock; None where there is none."""
    try:
        found = json.loads(path.read_text())
        beats = found.pop("beats")
        return Owner(**found), beats
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):  # half-written, on a file system that cannot do better
        return Owner("", "an unknown host", "", 0, "", "an unknown time", "unreadable lock", ""), -1


class FolderLock:
    """The lock of one folder, held from `take` to `release`.

    Args:
      folder: must be there.
      on_lost: called, from a thread, with a sentence when another program took the folder because this process was
        suspended for long. It must not write to the folder any more: usually ends the process.
    """

    def __init__(self, folder: str | os.PathLike, on_lost: Callable[[str], None]):
        self.path = Path(folder) / NAME
        self.owner = Owner.here(folder)
        self._beats, self._on_lost = 0, on_lost
        self._claimers: dict[str, float] = {}  # who was seen to act for a dead owner, since when
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True, name=f"owner of {folder}")

    def take(self, friend: str = "") -> bool:
        """Makes the folder this process's; False where it is the friend's (a token), who keeps it.

        Raises:
          FolderInUse: it is another one's, and that is alive.
          OSError: the folder takes no files.
        """
        while not self._create(self.path):
            found = _read(self.path)
            if found is None:  # gone, or being written
                time.sleep(0.05)
                continue
            owner = found[0]
            if owner.token == friend:
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
        """Gives the folder back, if it is this process's."""
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join()
        with contextlib.suppress(OSError):
            if self._is_mine():
                self.path.unlink()

    def _create(self, path: Path) -> bool:
        """Makes a lock or a claim, atomically; False where there is one already."""
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
        """A whole file beside the lock."""
        draft = self.path.with_name(f"{NAME}.{self.owner.token}")
        try:
            draft.write_text(json.dumps(dataclasses.asdict(self.owner) | {"beats": self._beats}, indent=1) + "\n")
        except OSError:  # a full disk takes the name and not the content
            draft.unlink(missing_ok=True)
            raise
        return draft

    def _is_silent(self, owner: Owner) -> bool:
        """Watches an owner elsewhere; True when it gave no sign for SILENT_SECONDS, or gave the folder back."""
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
        """What an owner that is alive changes: its count, or where a full disk does not take that the time."""
        with contextlib.suppress(OSError):
            found = _read(self.path)
            return (found[1] if found else -2), self.path.stat().st_mtime_ns
        return -2, 0

    def _remove(self, owner: Owner) -> None:
        """Removes a dead owner's lock. Only who has claimed that owner may, so that nobody removes a new owner's."""
        claims: list[Path] = []
        try:
            if not self._claim(owner.token, claims):
                time.sleep(0.05)
                return
            found = _read(self.path)
            if found is not None and found[0].token == owner.token:
                self.path.unlink()
            self.path.with_name(f"{NAME}.{owner.token}").unlink(missing_ok=True)  # what it was writing
        finally:
            for claim in claims:
                claim.unlink(missing_ok=True)

    def _claim(self, token: str, claims: list[Path]) -> bool:
        """Whether this process alone may act for a dead owner; adds the files that say so to `claims`.

        A claimer that has died is claimed in turn.
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
        """Counts, so that machines which cannot see this process know that it is alive."""
        while not self._ended.wait(BEAT_SECONDS):
            self._beats += 1
            with contextlib.suppress(OSError):  # a full disk or a network that is away for a while
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
    """Who owns a folder; None for nobody, or one that is known to be dead."""
    found = _read(Path(folder) / NAME)
    return found[0] if found is not None and not found[0].is_dead(folder) else None


@contextlib.contextmanager
def owned(folder: str | os.PathLike, on_lost: Callable[[str], None]) -> Iterator[None]:
    """The folder, which is made, belongs to this process inside the block; see FolderLock.

    Raises:
      FolderInUse: it belongs to another one.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder, on_lost)
    lock.take()
    try:
        yield
    finally:
        lock.release()
