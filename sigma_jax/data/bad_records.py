"""Records that cannot be read: they are counted, each is listed once in a file, and their share is limited."""

import contextlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from sigma_jax.runtime.errors import UserError
from sigma_jax.runtime.files import replacing

_MIN_SEEN = 1000  # the share of bad records is checked after so many clips (or one epoch, if that is less)


def file_name(process: int) -> str:
    """Name of the list of one process: no two write to the same file."""
    return f"bad_records-{process}.jsonl" if process else "bad_records.jsonl"


def _read_list(path: Path) -> dict[int, dict]:
    """Reads a list as {record: entry}.

    Lines that are no entries (a killed run may leave half a line, a crash of the machine others) are removed from the
    file, because a new entry would be appended to them.
    """
    entries, text = {}, path.read_text("utf-8", "replace")
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            entries[int(entry["record"])] = entry
    kept = _lines(entries.values())
    if kept != text:
        logging.warning("%s: removed lines that are no entries, such as one that a killed run left half written", path)
        with replacing(path) as partial:
            partial.write_text(kept, "utf-8")
    return entries


def _lines(entries: Iterable[dict]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


class TooManyBadRecords(UserError, RuntimeError):
    """The share of unreadable records is above `max_bad_fraction`, or a batch cannot be filled."""


class BadRecords:
    """Counts unreadable records, lists each once in a file, and raises above a fraction.

    Args:
      max_fraction: largest accepted share of unreadable records, 0..1.
      path: the list, JSON lines; None: no list.
      num_records: records of the split.
    """

    def __init__(self, max_fraction: float, path: str | os.PathLike | None, num_records: int):
        self.max_fraction, self.path = max_fraction, Path(path) if path else None
        self.min_seen = min(_MIN_SEEN, num_records)
        self.found, self.clips, self.failures = {}, 0, 0
        if self.path and self.path.exists():  # a resumed run
            self.found = _read_list(self.path)

    def add(self, bad: list[dict], num_clips: int, failure: str) -> None:
        """Counts one chunk of a batch.

        Args:
          bad: entries of its unreadable records (ClipReader.describe).
          num_clips: clips of the chunk.
          failure: why the chunk could not be filled, or "".

        Raises:
          TooManyBadRecords: the chunk could not be filled, or too many records are unreadable.
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
