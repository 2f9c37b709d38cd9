"""SIGINT (Ctrl-C) and SIGTERM: how they end a command, and how a training run saves before it ends.

Handlers are installed by context managers, which restore the previous ones. Outside the main thread nothing is
installed, because Python allows handlers in the main thread only.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 4.0  # from a signal until a command is ended that does not return from a library call


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end; raised in the main thread."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status by which shells know this signal: 130 or 143."""
        return 128 + self.number

    def __str__(self) -> str:
        return "stopped by Ctrl-C" if self.number == signal.SIGINT else "stopped by SIGTERM"


def in_main_thread() -> bool:
    """Whether handlers can be installed here."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def handlers(function: Callable[[int, object], None], numbers: tuple[int, ...] = SIGNALS) -> Iterator[None]:
    """Installs `function` as the handler of these signals inside the block."""
    if not in_main_thread():
        yield
        return
    before = {number: signal.signal(number, function) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: the previous handler was not installed from Python, and cannot be restored
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def take_back(number: int) -> None:
    """Reinstalls Python's handler of a signal, which C code of a library may have replaced."""
    if in_main_thread():
        signal.signal(number, signal.getsignal(number) or signal.SIG_DFL)


def stop(number: int, frame: object = None) -> None:
    """Handler that raises Stopped."""
    raise Stopped(number)


@contextlib.contextmanager
def ending(say: Callable[[str], None], seconds: float | None = None) -> Iterator[None]:
    """Inside the block a signal raises Stopped; if the process still runs `seconds` later, it is ended.

    Python runs handlers between its own instructions only, so a compilation, or waiting for a thread pool, could delay
    the exception by minutes. `say` is called with the message if the process is ended in this way.
    """
    if not in_main_thread():
        yield
        return
    watch = _Watch(say, GRACE_SECONDS if seconds is None else seconds)
    try:
        with handlers(stop):
            yield
    finally:
        watch.close()


class _Watch:
    """A thread that is notified of signals at once, through the file descriptor to which Python's C handler writes."""

    def __init__(self, say: Callable[[str], None], seconds: float):
        self._say, self._seconds, self._ended = say, seconds, threading.Event()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._run, daemon=True, name="signals").start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while byte := os.read(self._read, 1):
                number, handler = byte[0], signal.getsignal(byte[0])
                notice = getattr(handler, "__self__", None)
                ends = handler is stop or (isinstance(notice, Notice) and notice.heard(number))
                if ends and not self._ended.wait(self._seconds):
                    self._say(str(Stopped(number)))
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(128 + number)

    def close(self) -> None:
        self._ended.set()
        signal.set_wakeup_fd(self._before)
        os.close(self._write)  # ends the thread, which nobody waits for: the read end stays open


def end_within(status: int, seconds: float | None = None) -> None:
    """Ends the process with `status` after some seconds if it has not ended itself, as Python waits for all threads."""

    def end() -> None:
        time.sleep(GRACE_SECONDS if seconds is None else seconds)
        os._exit(status)

    threading.Thread(target=end, daemon=True, name="end").start()


class Notice:
    """A signal handler that only records the signal in `came`, so that the run can save and end by itself.

    A second Ctrl-C ends the program all the same.

    Args:
      say: called with a message at the first signal.
      relay: called with the signal instead of setting `came`, where the processes of a run must first agree on a step.
    """

    def __init__(self, say: Callable[[str], None], relay: Callable[[int], None] | None = None):
        self.came = False
        self._say, self._relay = say, relay
        self._said, self._interrupts, self._heard = threading.Lock(), 0, 0

    def handle(self, number: int, frame: object = None) -> None:
        """The handler. It runs when the main thread comes back to Python."""
        self._tell(number)
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise Stopped(number)
        if self._relay is not None:
            self._relay(number)
        else:
            self.came = True

    def heard(self, number: int) -> bool:
        """Called by the watching thread at once; returns whether this signal ends the program."""
        self._tell(number)
        self._heard += number == signal.SIGINT
        return self._heard > 1

    def _tell(self, number: int) -> None:
        if self._said.acquire(blocking=False):  # never released: said once
            name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            self._say(f"{name}: this step is finished and saved, then the run ends (Ctrl-C again: without saving)")


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Processes that are started inside the block ignore the terminal's Ctrl-C: their parent process ends them.

    They inherit a mask that blocks the signal; otherwise one that arrives during their imports would end them with a
    traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
