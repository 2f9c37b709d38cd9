"""Log lines of this package on stderr; of other packages only warnings (Orbax reports every file at INFO).

A save that fails (a full disk) is told by the checkpoints in one sentence. Orbax, asyncio and tensorstore tell it again
for every array, hundreds of lines that would bury the sentence: those are left out.
"""

import contextlib
import logging as python_logging
import sys
import threading
import time
from collections.abc import Iterator

from absl import logging


def start_logging() -> None:
    """Call once, first thing in a command."""
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.addFilter(is_wanted)
    handler.setFormatter(_Formatter())
    _leave_out_closed_loops()


@contextlib.contextmanager
def telling(what: str, seconds: float = 3.0) -> Iterator[None]:
    """Says what the block does once it has lasted so long, and at its end how long it took; quick ones say nothing."""
    begun = time.monotonic()
    timer = threading.Timer(seconds, logging.info, ("%s ...", what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if time.monotonic() - begun > seconds:
        logging.info("%s: done after %.0f s", what, time.monotonic() - begun)


def is_wanted(record: python_logging.LogRecord) -> bool:
    """Whether a record is for the user."""
    if "sigma_jax" in record.pathname:
        return True
    if record.levelno < python_logging.WARNING:
        return False
    raised_to_us = "orbax" in record.pathname and record.levelno >= python_logging.ERROR
    return not raised_to_us and not (record.name == "asyncio" and "never retrieved" in record.getMessage())


def _leave_out_closed_loops() -> None:
    """tensorstore calls the event loop of a save that was given up, once for every array."""
    before = sys.unraisablehook
    if getattr(before, "leaves_out_closed_loops", False):
        return

    def tell(problem: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(problem.exc_value, RuntimeError) and str(problem.exc_value) == "Event loop is closed"):
            before(problem)

    tell.leaves_out_closed_loops = True
    sys.unraisablehook = tell


class _Formatter(python_logging.Formatter):
    """`23:31:38 step 20/900 ...`; anything but information also says its level."""

    def format(self, record: python_logging.LogRecord) -> str:
        level = "" if record.levelno <= python_logging.INFO else f"{record.levelname}: "
        return f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
