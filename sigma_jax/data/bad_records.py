"""The account of records that could not be read: counted, listed once each, and a limit on their share."""

import contextlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from sigma_jax.runtime.errors import UserError
from sigma_jax.runtime.files import replacing

_MIN_SEEN = 1000  # clips before the share of bad records means something (or one epoch, if that is less)


def file_name(process: int) -> str:
    """Name of the list of one process: no two write to the same file."""
    return f"bad_records-{process}.jsonl" if process else "bad_records.jsonl"


def _read_list(path: Path) -> dict[int, dict]:
    """Record -> entry of a list. Lines that are none (a killed run may cut its last one, a crash of the machine leave
    others) are taken out of the file: what is appended must not continue them."""
    entries, text = {}, path.read_text("utf-8", "replace")
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            entries[int(entry["record"])] = entry
    kept = _lines(entries.values())
    if kept != text:
        logging.warning("%s: took out what is no entry", path)
        with replacing(path) as partial:
            partial.write_text(kept, "utf-8")
    return entries


def _lines(entries: Iterable[dict]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


class TooManyBadRecords(UserError, RuntimeError):
    """So many records cannot be read that training would not be on this data set."""


class BadRecords:
    """Counts unreadable records, lists each once in a file, and stops the run above a fraction."""

    def __init__(self, max_fraction: float, path: str | os.PathLike | None, num_records: int):
        self.max_fraction, self.path = max_fraction, Path(path) if path else None
        self.min_seen = min(_MIN_SEEN, num_records)
        self.found, self.clips, self.failures = {}, 0, 0
        if self.path and self.path.exists():  # a resumed run
            self.found = _read_list(self.path)

    def add(self, bad: list[dict], num_clips: int, failure: str) -> None:
        """Books one chunk: its unreadable records, its clips and why it could not be filled (empty: it could).

        Raises TooManyBadRecords where it could not be filled or where too many records are unreadable.
        """
        new = {entry["record"]: entry for entry in bad if entry["record"] not in self.found}
        for entry in new.values():
            logging.warning("unreadable record: %s", entry)
        if new and self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(_lines(new.values()))
        self.found |= new
        self.clips += num_clips
        self.failures += len(bad)
        if failure:
            raise TooManyBadRecords(f"{failure}. {self._where()}")
        fraction = self.stats()["bad_fraction"]
        if self.clips >= self.min_seen and fraction > self.max_fraction:
            raise TooManyBadRecords(
                f"{fraction:.1%} of the records cannot be read ({len(self.found)} different in {self.clips} clips); "
                f"max_bad_fraction is {self.max_fraction:.1%}. {self._where()} Copy or prepare the data again."
            )

    def _where(self) -> str:
        return f"The list is in {self.path}." if self.path else f"So far: {list(self.found.values())[:5]}."

    def stats(self) -> dict[str, float]:
        reads = self.clips + self.failures
        fraction = self.failures / reads if reads else 0.0
        return {"bad_videos": len(self.found), "bad_fraction": fraction, "clips_seen": self.clips}
