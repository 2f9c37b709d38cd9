"""Log lines of this package on stderr; of other packages only warnings (Orbax reports every file at INFO)."""

import logging as python_logging

from absl import logging


def start_logging() -> None:
    """Call once, first thing in a command."""
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.addFilter(lambda record: record.levelno >= python_logging.WARNING or "sigma_jax" in record.pathname)
    handler.setFormatter(_Formatter())


class _Formatter(python_logging.Formatter):
    """`23:31:38 step 20/900 ...`; anything but information also says its level."""

    def format(self, record: python_logging.LogRecord) -> str:
        level = "" if record.levelno <= python_logging.INFO else f"{record.levelname}: "
        return f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
