"""Which videos there are and what they show: a folder with class sub-folders, or a `path label` list."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

SUFFIXES = ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv"


@dataclass(frozen=True)
class Entry:
    """A video to be prepared."""

    path: Path
    key: str  # relative to the folder of videos
    label: str  # as written; empty: no class
    images: tuple[int, int] = (0, -1)  # of a folder of pictures: number of the first, how many (-1: all)
    annotation: str = ""  # what is known beyond the class (annotations.py)


@dataclass(frozen=True)
class Refusal:
    """A video that is left out, and why."""

    key: str
    reason: str


def list_folder(folder: Path) -> tuple[list[Entry], list[str]]:
    """(videos in order of their names, names of other files). Class: the first folder below `folder`, if any.

    Links to folders are followed, unless they lead back. Raises OSError where a folder cannot be read.
    """
    entries, others = [], []
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(parent, name)]
        for name in files:
            path = Path(parent, name)
            relative = path.relative_to(folder)
            if name.startswith("."):
                continue
            if path.suffix.lower() not in SUFFIXES.split():
                others.append(str(relative))
                continue
            label = relative.parts[0] if len(relative.parts) > 1 else ""
            entries.append(Entry(path, relative.as_posix(), label))
    return sorted(entries, key=lambda entry: entry.key), sorted(others)


def _raise(error: OSError) -> None:
    raise error


def _leads_back(parent: str, name: str) -> bool:
    path = os.path.join(parent, name)
    return os.path.islink(path) and Path(os.path.realpath(parent)).is_relative_to(os.path.realpath(path))


def list_csv(csv: Path, folder: Path) -> "Found":
    """Videos of a list, one `path label` a line, separated by tabs, commas or blanks throughout.

    Paths are relative to `folder` (or absolute) and may contain blanks; blank lines and a `path,label` header are
    skipped; a list of bare paths gives videos without a class. A line that does not fit, a missing file or one listed
    before is refused.
    """
    lines = read_lines(csv)
    separator = _find_separator([line for _, line in lines])
    found = Found(csv.name)
    for number, line in lines:
        name, label = line, ""
        if separator is not None:
            parts = [part.strip().strip('"') for part in line.rsplit(None if separator == " " else separator, 1)]
            if len(parts) < 2 or not all(parts):
                found.refuse(number, line, "expected `path label`")
                continue
            name, label = parts
        if (name.lower(), label.lower()) == ("path", "label"):
            continue
        found.add(number, [folder / name], name, label)
    return found


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text) of all lines that are not blank; names that are no valid UTF-8 survive."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


@dataclass(frozen=True)
class Line:
    """A line of a list that names a video with a class, and what became of it."""

    number: int
    label: str
    found: Entry | Refusal


class Found:
    """The videos of one list: a missing one and one listed before are refused, naming the line.

    `lines` are all that could be read, in order, whether their video is there or not.
    `list_name` is the file that lines are read from; a list may consist of several.
    """

    def __init__(self, list_name: str):
        self.list_name, self.entries, self.refused, self._seen = list_name, [], [], {}
        self.lines: list[Line] = []
        self.subset: dict = {}  # which part of the list these are; {}: all

    def add(
        self,
        number: int,
        places: list[Path],
        key: str,
        label: str,
        images: tuple[int, int] | None = None,
        annotation: str = "",
    ) -> None:
        """The first of `places` that is there; a folder of pictures where `images` is given."""
        before = len(self.entries)
        self._add(number, places, Entry(Path(), key, label, images or (0, -1), annotation), bool(images))
        found = self.entries[before] if len(self.entries) > before else self.refused[-1]
        self.lines.append(Line(number, label, found))

    def _add(self, number: int, places: list[Path], entry: Entry, is_folder: bool) -> None:
        key = entry.key
        try:
            path = next((p for p in places if (p.is_dir() if is_folder else p.is_file())), None)
        except (ValueError, OSError) as error:  # a NUL in the name, a name too long
            self.refuse(number, key, f"no possible path: {error}")
            return
        real = path and os.path.realpath(path)
        if not path:
            others = f", nor under {len(places) - 1} other names, the last {places[-1]}" if len(places) > 1 else ""
            self.refuse(number, key, f"no such {'folder' if is_folder else 'file'} {places[0]}{others}")
        elif real in self._seen:
            self.refuse(number, key, f"already listed in line {self._seen[real]}")
        else:
            self._seen[real] = f"{number} of {self.list_name}"
            self.entries.append(replace(entry, path=path))

    def refuse(self, number: int, key: str, reason: str) -> None:
        self.refused.append(Refusal(key, f"line {number} of {self.list_name}: {reason}"))


def _find_separator(lines: list[str]) -> str | None:
    """The separator that most lines have, tab before comma before blank; None for a list of bare paths."""
    for separator in "\t, ":
        if sum(separator in line for line in lines) > len(lines) / 2:
            return separator
    return None


def are_numbers(entries: list[Entry]) -> bool:
    """Whether classes are given as numbers: most labels are. A slip in one line does not make names of them."""
    labels = [entry.label for entry in entries if entry.label]
    return 2 * sum(map(_is_number, labels)) > len(labels) or not labels


def _is_number(label: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,9}", label) is not None


def number_labels(entries: list[Entry], known: list[str], num_classes: int = 0) -> tuple[dict[str, int], list[str]]:
    """(label text -> class index, class names in order).

    Integers stand for themselves (-1: no class) and need no names; `num_classes` is their limit, 0: none. Otherwise the
    index is the place among `known` names (of a label map that exists already), or else among the sorted names. Labels
    without an index are absent.
    """
    texts = sorted({entry.label for entry in entries} - {""})
    if are_numbers(entries):
        limit = len(known) or num_classes or 10**9
        return {text: int(text) for text in texts if _is_number(text) and -1 <= int(text) < limit} | {"": -1}, known
    names = known or texts
    indices = {name: index for index, name in enumerate(names)}
    return {text: indices[text] for text in texts if text in indices} | {"": -1}, names


def printable(text: str) -> str:
    """For a terminal: what is no text, or would move its cursor, is shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
