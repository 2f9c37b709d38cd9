"""Limits: on how long one call may take, even where a decoder's C code never comes back, and on a worker's life."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any


def call(seconds: float, function: Callable, *args) -> Any:
    """`function(*args)`, in a thread of its own that is given up after `seconds` (0: no limit, no thread).

    A thread cannot be ended from outside: one that was given up ends at its next check(), or, stuck in a library, with
    the process.

    Raises:
      TimeoutError: it took longer. Whatever `function` raises is raised here.
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
    """Ends a call or thread that was given up; to be called from loops. Raises TimeoutError."""
    if is_given_up(threading.current_thread()):
        raise TimeoutError("given up")


def give_up(thread: threading.Thread) -> None:
    """Lets a thread end at its next check()."""
    thread.given_up = True


def is_given_up(thread: threading.Thread) -> bool:
    return getattr(thread, "given_up", False)


def end_with_parent() -> None:
    """In a worker process: ends it when its parent is gone. One that was killed cannot say so, and workers wait on."""

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
