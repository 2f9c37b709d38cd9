"""The checkout that this code runs from."""

import subprocess

from sigma_jax.runtime.config import REPOSITORY


def commit() -> str:
    """The checkout's commit, or 'unknown' outside one (an installed package may lie inside another's checkout)."""
    if not (REPOSITORY / ".git").exists():
        return "unknown"
    try:
        asked = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
