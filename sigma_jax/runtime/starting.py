"""Ctrl-C while a command imports its libraries, which takes seconds: a sentence in place of a traceback."""

import sys
from collections.abc import Sequence


def is_command(argv: Sequence[str]) -> bool:
    """Whether Python was started as `python -m sigma_jax.<command>`; other programs are left alone."""
    return any(
        flag == "-m" and module.startswith("sigma_jax.") for flag, module in zip(argv[1:], argv[2:], strict=False)
    )


def tell_interrupts() -> None:
    """Lets a Ctrl-C that nobody handles end the program with a sentence in place of a traceback."""
    before = sys.excepthook

    def tell(kind, error, traceback) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("stopped by Ctrl-C while starting", file=sys.stderr)  # noqa: T201
        else:
            before(kind, error, traceback)

    sys.excepthook = tell
