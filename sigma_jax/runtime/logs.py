"""Log lines of this package on stderr; of other packages only warnings (Orbax reports every file at INFO).

A checkpoint that cannot be saved (a full disk) is reported in one sentence by checkpoints/manager.py. Orbax, asyncio
and tensorstore report it again for every array, in hundreds of lines that would bury the sentence: these are left out.
"""

import contextlib
import logging as python_logging
import sys
import threading
import time
from collections.abc import Iterator

from absl import logging


def start_logging() -> None:
    """Sets up logging; a command calls it once, before anything else."""
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.addFilter(is_wanted)
    handler.setFormatter(_Formatter())
    _leave_out_closed_loops()


@contextlib.contextmanager
def telling(what: str, seconds: float = 3.0) -> Iterator[None]:
    """Logs what the block does once it has taken `seconds`, and in the end how long it took; if quicker, nothing."""
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
    """Whether a log record is shown: all of this package's, and warnings of others."""
    if "sigma_jax" in record.pathname:
        return True
    if record.levelno < python_logging.WARNING:
        return False
    raised_to_us = "orbax" in record.pathname and record.levelno >= python_logging.ERROR
    return not raised_to_us and not (record.name == "asyncio" and "never retrieved" in record.getMessage())


def _leave_out_closed_loops() -> None:
    """Silences "Event loop is closed", which tensorstore raises once for every array of a save that failed."""
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
