"""A time limit for calls, even of C code that never returns, and the end of workers whose parent process is gone."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any


def call(seconds: float, function: Callable, *args) -> Any:
    """Calls `function(*args)` with a time limit, in a thread (0: no limit and no thread).

    A thread cannot be ended from outside: after the limit it ends at its next check() or, if a library does not return,
    with the process.

    Raises:
      TimeoutError: the call took more than `seconds`. Exceptions of `function` are raised as they are.
    """
    if not seconds:
        return function(*args)
    job = _Job(function, args)
    job.start()
    job.join(seconds)
    if job.is_alive():
        give_up(job)
        raise TimeoutError(f"took more than {seconds:g} s")
    if job.error is not None:
        raise job.error
    return job.result


def check() -> None:
    """Raises TimeoutError in a thread that was given up; loops call this to end such threads."""
    if is_given_up(threading.current_thread()):
        raise TimeoutError("given up")


def give_up(thread: threading.Thread) -> None:
    """Lets a thread end at its next check()."""
    thread.given_up = True


def is_given_up(thread: threading.Thread) -> bool:
    return getattr(thread, "given_up", False)


def end_with_parent() -> None:
    """In a worker process: ends it when its parent is gone, since a killed parent cannot tell its workers to end."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Job(threading.Thread):
    def __init__(self, function: Callable, args: tuple):
        super().__init__(daemon=True)  # does not keep the process alive
        self.function, self.args, self.result, self.error = function, args, None, None

    def run(self) -> None:
        try:
            self.result = self.function(*self.args)
        except BaseException as error:  # noqa: BLE001 - raised again by call()
            self.error = error
