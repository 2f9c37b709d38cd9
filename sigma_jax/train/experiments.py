"""Experiments of several runs: each through the ordinary command, in a folder of its own; what is finished is kept."""

import contextlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sigma_jax.runtime.errors import Failed, InvalidValue

SAVE_SECONDS = 3.0  # that a run which is stopped is waited for; it saves longer if it must


def train_in(folder: Path, flags: Sequence[str]) -> None:
    """Trains (or resumes) a run of sigma_jax.main with `folder` as its workdir, without pictures.

    Raises:
      Failed: the run failed; its log is in the folder.
    """
    command = [sys.executable, "-m", "sigma_jax.main", "--noreport", f"--workdir={folder}", *flags]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as log:
        status = run_to_its_end(command, log)
    if status:
        raise Failed(f"{shlex.join(command)} ended with status {status}: see {folder / 'log.txt'}")


def run_to_its_end(command: Sequence[str], log: IO[str]) -> int:
    """Exit status of a program. When this one is stopped, that one is asked to stop, too, and saves what it has."""
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SAVE_SECONDS)
        raise


def cached(path: Path, asked: Mapping[str, Any], compute: Callable[[], dict]) -> dict:
    """Numbers kept in `path`, or computed now; kept ones that were asked otherwise are an error.

    Raises:
      InvalidValue: the folder belongs to another experiment, or the file is damaged.
    """
    if path.is_file():
        try:
            kept = json.loads(path.read_text())
            belongs, numbers = kept["asked"], kept["numbers"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidValue(f"{path} cannot be read ({error}): delete it, and it is measured again") from error
        if belongs != asked:
            raise InvalidValue(f"{path} was measured for {belongs}, now asked for {asked}: use another --workdir")
        return numbers
    numbers = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"asked": asked, "numbers": numbers}, indent=2) + "\n")
    part.replace(path)
    return numbers
