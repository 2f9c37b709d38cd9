"""A folder belongs to one program that is alive; a dead one's is taken over, on this machine and from another."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from sigma_jax.runtime import folder_lock
from sigma_jax.runtime.folder_lock import NAME, FolderInUse, FolderLock, Owner, owned


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 0.3)


def left_behind(folder, **changes) -> None:
    """The lock of an owner that ended without giving it back."""
    owner = dataclasses.asdict(Owner.here(folder)) | changes
    (folder / NAME).write_text(json.dumps(owner | {"beats": 3}))


def test_a_second_one_is_refused_and_told_by_whom(tmp_path):
    with owned(tmp_path / "run", print):
        with (
            pytest.raises(FolderInUse, match=f"in use by process {os.getpid()} on .* since 20"),
            owned(tmp_path / "run", print),
        ):
            pass
        with owned(tmp_path / "other", print):
            pass
        assert [path.name for path in (tmp_path / "run").iterdir()] == [NAME]
    with owned(tmp_path / "run", print):
        pass
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 2**22 + 7},  # no such process
        {"started": "1"},  # its number came again
        {"host": "elsewhere"},  # silent
        {"machine": "an earlier boot"},
    ],
    ids=str,
)
def test_a_dead_owners_folder_is_taken_over(tmp_path, changes):
    left_behind(tmp_path, **{"token": "before"} | changes)
    with owned(tmp_path, print):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_read_is_silent(tmp_path):
    (tmp_path / NAME).write_text('{"token": "ab')
    with owned(tmp_path, pytest.fail):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_a_killed_process_leaves_nothing_that_stops_the_next(tmp_path):
    program = f"import time; from sigma_jax.runtime.folder_lock import owned\nwith owned({str(tmp_path)!r}, print):\n"
    program += " print('mine', flush=True)\n time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    with pytest.raises(FolderInUse, match=f"process {process.pid}"), owned(tmp_path, print):
        pass
    process.kill()
    time.sleep(0.2)  # not waited for: the process table still has it
    with owned(tmp_path, print):
        pass
    process.wait()
    process.stdout.close()


def test_a_copy_of_a_folder_in_use_is_free_and_the_folder_by_another_name_is_not(tmp_path, monkeypatch):
    with owned(tmp_path / "run", print):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with owned(tmp_path / "copy", print):
            pass
        (tmp_path / "link").symlink_to(tmp_path / "run")
        monkeypatch.setattr(os.path, "realpath", str)  # as with a folder that is mounted twice
        monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 60)
        with pytest.raises(FolderInUse), owned(tmp_path / "link", print):
            pass


def test_an_owner_elsewhere_that_counts_is_alive(tmp_path, monkeypatch):
    """As seen from a machine that cannot look into the owner's process table."""
    monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 60)  # at most: the first count ends the watch
    lock = FolderLock(tmp_path, print)
    lock.owner = dataclasses.replace(lock.owner, host="elsewhere")
    lock.take()
    with pytest.raises(FolderInUse, match="on elsewhere"), owned(tmp_path, print):
        pass
    lock.release()


def test_an_owner_on_a_full_disk_is_alive(tmp_path, monkeypatch):
    lock = FolderLock(tmp_path, print)
    lock.owner = dataclasses.replace(lock.owner, host="elsewhere")
    lock.take()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock, "_draft", full)
    monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 60)
    with pytest.raises(FolderInUse, match="on elsewhere"), owned(tmp_path, print):
        pass
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_suspended_is_told_that_it_lost_the_folder(tmp_path):
    said, told = [], threading.Event()
    lock = FolderLock(tmp_path, lambda sentence: (said.append(sentence), told.set()))
    lock.take()
    left_behind(tmp_path, token="another")
    assert told.wait(30) and "taken over by process" in said[0]
    lock.release()
    assert json.loads((tmp_path / NAME).read_text())["token"] == "another"  # it keeps its lock


def test_processes_of_one_run_share_the_folder(tmp_path):
    first, second, stranger = (FolderLock(tmp_path, print) for _ in range(3))
    assert first.take()
    assert not second.take(friend=first.owner.token)
    with pytest.raises(FolderInUse):
        stranger.take(friend="another run")
    second.release()
    assert (tmp_path / NAME).exists()
    first.release()


def test_of_many_that_take_over_one_wins(tmp_path):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads meet between any two lines
    try:
        for number in range(20):
            folder = tmp_path / str(number)
            folder.mkdir()
            assert winners_among(12, folder) == 1
            assert list(folder.iterdir()) == []
    finally:
        sys.setswitchinterval(interval)


def winners_among(many: int, folder) -> int:
    """How many of so many take the folder of a dead owner at once; all give it back."""
    left_behind(folder, token="before", started="1")
    locks, results = [FolderLock(folder, print) for _ in range(many)], []

    def take(lock):
        try:
            results.append(lock.take())
        except FolderInUse:
            results.append(False)

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    [lock.release() for lock in locks]
    return sum(results)


def test_who_died_while_taking_over_is_taken_over_too(tmp_path):
    left_behind(tmp_path, token="before", started="1")
    claimer = dataclasses.asdict(Owner.here(tmp_path)) | {"token": "second", "started": "2"}
    (tmp_path / f"{NAME}.claim.before").write_text(json.dumps(claimer | {"beats": 0}))
    with owned(tmp_path, print):
        assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    with owned(tmp_path, print), pytest.raises(FolderInUse), owned(tmp_path, print):
        pass
