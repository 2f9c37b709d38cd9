"""Log lines of this package on stderr; of other packages only warnings (Orbax reports every file at INFO)."""

from absl import logging

QUIET_BELOW = logging.converter.absl_to_standard(logging.WARNING)


def start_logging() -> None:
    """Call once, first thing in a command."""
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.addFilter(lambda record: record.levelno >= QUIET_BELOW or "sigma_jax" in record.pathname)
