"""Reads text files with one video a line; encoding, separator, header and columns are found from the content.

A list is parsed in every way that fits most of its lines: columns separated by tabs, commas, semicolons or bars, quoted
or not; a path and a label separated by blanks; paths alone; JSON objects. If a header names the columns it decides,
otherwise the way in which most videos exist. If the columns remain unclear, the error says which header line to add.
"""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from sigma_jax.datasets.listing import split_of
from sigma_jax.runtime.errors import InvalidValue

_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
_SAMPLE = 200  # lines whose videos are looked up to choose between ways of parsing
_BOMS = (  # UTF-32 before UTF-16, whose mark it begins with
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Names of columns, in lower case with `_` for blanks; where a header has several of them, the first here is taken.
_PATHS = (
    *("path", "video_path", "file_path", "filepath", "relative_path", "filename", "file_name", "file", "video_file"),
    *("video", "videos", "video_name", "clip_path", "clip", "clip_name", "frames", "frame_dir", "frames_dir", "folder"),
    *("dir", "directory", "video_id", "vid_name", "clip_id", "id", "name"),
)
_LABELS = (
    *("label", "labels", "class", "class_name", "classname", "label_name", "category", "action", "action_name", "tag"),
    *("target", "activity", "gloss", "template", "class_id", "label_id", "class_index", "class_idx", "label_idx"),
)
_SPLITS = ("split", "subset")
_OTHERS = {  # columns that are no labels, even if there is no other column beside the path
    *("num_frames", "n_frames", "nframes", "total_frames", "frame_count", "length", "duration", "fps", "width"),
    *("height", "start", "end", "start_time", "end_time", "time_start", "time_end", "size", "bytes", "md5", "url"),
    *("caption", "text", "description", "index", "unnamed:_0", ""),
}
_NO_TEXT = {  # first bytes of files that are no text
    b"PK\x03\x04": "an Excel or zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip file",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}

Exists = Callable[[str], bool]  # whether there is a video of that name


@dataclass(frozen=True)
class Row:
    """One video of a list. `label` is empty where the list has none, `split` where it has no such column."""

    number: int  # of its line, from 1
    path: str
    label: str = ""
    split: str = ""


@dataclass
class Table:
    """The videos of a list, lines that do not fit, and notes on how the list was parsed."""

    rows: list[Row] = field(default_factory=list)
    misfits: list[tuple[int, str, str]] = field(default_factory=list)  # (number, text, reason) of a line
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Line:
    number: int
    text: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class _Reading:
    """One way to parse a list: the place of each column among `count`, and the separator.

    separator: a key of _SEPARATORS, " " for blanks, "" for lines that are paths.
    """

    separator: str
    lines: list[_Line]  # without the header
    count: int = 1
    path: int = 0
    label: int | None = None
    split: int | None = None
    columns: tuple[str, ...] = ()  # their names in the header; (): there is no header
    decided: bool = True  # False: the column of the label is not clear
    rest: bool = False  # the label is all that follows the longest path that exists

    def row(self, line: _Line, exists: Exists) -> Row | None:
        """The video of a line; None if the line does not fit. A path may contain the separator without quotes."""
        cells = line.cells
        while len(cells) > self.count and not cells[-1]:
            cells = cells[:-1]
        surplus = len(cells) - self.count
        places = {"label": self.label, "split": self.split}
        if len(cells) <= max(self.path, self.label or 0, self.split or 0):
            return None
        if self.rest:
            return self._longest_path(line, exists)
        path = cells[self.path]
        if surplus > 0:
            path = _slice(line, self.separator, self.path, self.path + surplus + 1)
            if self.separator != " " and not exists(path):
                return None
        shift = max(surplus, 0)
        found = {
            name: cells[place + shift * (place > self.path)] for name, place in places.items() if place is not None
        }
        return Row(line.number, path, **found) if path and all(found.values()) else None

    def _longest_path(self, line: _Line, exists: Exists) -> Row:
        paths = {count: _slice(line, " ", 0, count) for count in range(len(line.cells) - 1, 0, -1)}
        count = next((count for count, path in paths.items() if exists(path)), len(line.cells) - 1)
        return Row(line.number, paths[count], _slice(line, " ", count, len(line.cells)))


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 (invalid bytes become surrogates), UTF-16 or UTF-32.

    Raises InvalidValue if the file is no text, or not in the encoding that its first bytes announce.
    """
    data = path.read_bytes()
    kind = next((kind for start, kind in _NO_TEXT.items() if data.startswith(start)), None)
    if kind:
        raise InvalidValue(f"{path} is {kind}, expected text: save it as CSV, one video a line")
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:200]:  # without a mark: every second byte of ASCII in UTF-16 is 0
        zeros = not any(data[0:200:2]), not any(data[1:200:2])
        encoding = {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(zeros, "utf-8")
    try:
        return data.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict")
    except UnicodeDecodeError as error:
        raise InvalidValue(
            f"{path} is no {encoding}, as its first bytes say ({error.reason}): save it as UTF-8"
        ) from error


def _split_lines(text: str) -> list[str]:
    """Lines that end in LF, CR LF or CR; Unicode's other line separators may be part of a name."""
    return re.split(r"\r\n|\n|\r", text)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text without the blanks around it) of all lines that are not blank."""
    return [(number, line.strip()) for number, line in enumerate(_split_lines(read_text(path)), 1) if line.strip()]


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, {column: cell}) of a table whose first line names the columns; names in lower case."""
    text = read_text(path)
    first = next((line for line in _split_lines(text) if line.strip()), "")
    lines = _parse(text, max(_SEPARATORS, key=first.count) if any(map(first.count, _SEPARATORS)) else ",")
    names = [_column_name(cell) for cell in lines[0].cells] if lines else []
    for line in lines[1:]:
        yield line.number, dict.fromkeys(names, "") | dict(zip(names, line.cells, strict=False))


def read_table(path: Path, exists: Exists) -> Table:
    """Reads a list of videos.

    Args:
      path: the list.
      exists: decides where several ways of reading fit the lines.

    Raises:
      InvalidValue: nothing decides which column is the label; the message names the header line to add.
    """
    text = re.sub(r"^sep=.\r?\n", "\n", read_text(path))  # a first line that Excel writes and needs
    text = _from_json(path, text) if re.match(r"\s*(\[\s*)?\{", text) else text
    words = _parse(text, " ")
    comments = {line.number for line in words if _is_comment(line, exists)}
    words = [line for line in words if line.number not in comments]
    best, best_score = None, (-1, False)
    for reading in _readings(text, words, comments, exists):
        found = (reading.row(line, exists) for line in reading.lines[:_SAMPLE])
        score = sum(row is not None and exists(row.path) for row in found), reading.decided
        if score > best_score:
            best, best_score = reading, score
    if not best.decided:
        raise InvalidValue(
            f"{path} has {_width(best.lines)} columns, and nothing says which of them is the label: call one of them "
            "`label` in a header line, such as `path,label,other`. Folders of pictures and counts: --format=rawframes "
            "or videomae_v2"
        )
    table = Table(notes=_describe(path.name, best, len(comments)))
    for line in best.lines:
        row = best.row(line, exists)
        if row is None:
            expected = "`path label`" if best.count < 3 else f"{best.count} columns"
            found = f"{len(line.cells)} columns" + " with an empty one" * (not all(line.cells))
            table.misfits.append((line.number, line.text, f"expected {expected}, got {found}"))
        else:
            table.rows.append(row)
    return table


def _describe(name: str, reading: _Reading, comments: int) -> list[str]:
    places = {"path": reading.path, "label": reading.label, "split": reading.split}
    told = [f"{what} in column {place + 1}" for what, place in places.items() if place is not None]
    parted = {**_SEPARATORS, " ": "blanks"}.get(reading.separator)
    told.insert(0, f"columns parted by {parted}" if parted else "one path a line")
    told += ["a header"] * bool(reading.columns)
    unused = [name for place, name in enumerate(reading.columns) if name and place not in places.values()]
    told += [f"not used: {', '.join(unused)}"] * bool(unused)
    return [f"{name}: {', '.join(told)}", *([f"{name}: {comments} comment lines (#) skipped"] if comments else [])]


def _readings(text: str, words: list[_Line], comments: set[int], exists: Exists) -> Iterator[_Reading]:
    """All ways to parse a list that fit most of its lines, likely ones first."""
    for separator in _SEPARATORS:
        if sum(separator in line.text for line in words) > len(words) / 2:
            lines = [line for line in _parse(text, separator) if line.number not in comments]
            yield from _by_columns(separator, lines, exists)
    if sum(len(line.cells) > 1 for line in words) > len(words) / 2:
        if _is_header(words[0], exists):
            yield from _by_columns(" ", words, exists)
        yield _Reading(" ", words, count=2, path=0, label=1)
        yield _Reading(" ", words, count=2, path=1, label=0)
        rest = _Reading(" ", words, count=2, path=0, label=1, rest=True)
        labels = [row.label for line in words[:_SAMPLE] if (row := rest.row(line, exists))]
        several = all(re.match(r"-?[\d.]+\s", label) for label in labels)  # `path 16 3`: which number is it?
        yield replace(rest, decided=not several)
    bare = [_Line(line.number, line.text, (line.text.strip('"'),)) for line in words]
    yield from _by_columns("", bare, exists)


def _by_columns(separator: str, lines: list[_Line], exists: Exists) -> Iterator[_Reading]:
    """The ways to parse a table: by the names of its columns, else with every column that can be the path."""
    header = bool(lines) and _is_header(lines[0], exists)
    body = lines[1:] if header else lines
    columns = lines[0].cells if header else ()
    count = len(columns) or _width(lines)
    filled = [place for place in range(count) if any(len(line.cells) > place and line.cells[place] for line in body)]
    path, label, split = (_named(lines[0], names) if header else None for names in (_PATHS, _LABELS, _SPLITS))
    no_labels = [place for place in range(count) if header and _column_name(lines[0].cells[place]) in _OTHERS]
    if split is None and (header or count > 2):
        unknown = (place for place in filled if place not in (path, label))
        split = next((place for place in unknown if _names_splits(body, place)), None)
    others = [place for place in filled if place not in (path, label, split, *no_labels)]
    for place in ([] if path is None else [path]) + others or [0]:  # a column called `path` may hold something else
        rest = [other for other in filled if other not in (place, split, *no_labels)]
        own = rest[0] if label is None and rest else label
        decided = label is not None or len(rest) < 2
        yield _Reading(separator, body, max(count, 1), place, own, split, columns, decided)
    if count > 2 and not header:  # paths that hold the separator
        yield _Reading(separator, body, count=2, path=0, label=1)
        yield _Reading(separator, body, count=2, path=1, label=0)


def _names_splits(lines: list[_Line], place: int) -> bool:
    """Whether every cell of a column names a split, whatever the column is called."""
    cells = {line.cells[place] for line in lines if len(line.cells) > place}
    return all(map(split_of, cells))


def _from_json(path: Path, text: str) -> str:
    """JSON objects as the text of a table with their keys as the header.

    They stand in an array, one a line, or each under its path in one object (`{"a.mp4": {"label": "run"}}`).

    Raises InvalidValue if it is no JSON, or no list of objects.
    """
    try:
        lines = [text] if text.lstrip().startswith("[") else [f"[{line}]" for line in _split_lines(text)]
        found = _by_path(text) or [item for line in lines for item in json.loads(line)]
        keys = list(dict.fromkeys(key for item in found for key in item))
        rows = [[_cell(item.get(key)) for key in keys] for item in found]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InvalidValue(f"{path} begins like JSON but is no list of objects: {error}") from error
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([keys, *rows])
    return file.getvalue()


def _by_path(text: str) -> list[dict]:
    """The objects of a text that is one object with an object under each path; [] for any other text."""
    try:
        whole = json.loads(text)
    except ValueError:  # one object a line
        return []
    if not isinstance(whole, dict) or not whole or not all(isinstance(item, dict) for item in whole.values()):
        return []
    return [{"path": name} | item for name, item in whole.items()]


def _cell(value: object) -> str:
    """A JSON value as a cell; "" for null, lists and objects."""
    return str(value) if isinstance(value, (str, int, float)) else ""


def _parse(text: str, separator: str) -> list[_Line]:
    """The lines of a text that are not blank, split into cells; separator " " stands for any blanks.

    Quotes are those of CSV: a quoted cell may contain separators and line ends. Unpaired quotes are parts of names.
    """
    raw = _split_lines(text)
    if separator == " ":
        return [_Line(n, line.strip(), tuple(_words(line.strip()))) for n, line in enumerate(raw, 1) if line.strip()]
    found, start = [], 0
    try:
        reader = csv.reader([f"{line}\n" for line in raw], delimiter=separator, skipinitialspace=True, strict=True)
        for cells in reader:
            lines, number, start = raw[start : reader.line_num], start + 1, reader.line_num
            found.append(_Line(number, "\n".join(lines), tuple(cell.strip() for cell in cells)))
    except csv.Error:
        found = [_Line(n, line, tuple(_unquote(c) for c in line.split(separator))) for n, line in enumerate(raw, 1)]
    return [line for line in found if any(line.cells)]


def _unquote(cell: str) -> str:
    cell = cell.strip()
    return cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _words(line: str) -> list[str]:
    if '"' not in line:
        return line.split()
    return [_unquote(word) for word in re.findall(r'"[^"]+"(?=\s|$)|\S+', line)]


def _slice(line: _Line, separator: str, start: int, stop: int) -> str:
    """The text of the cells start .. stop - 1, with their separators."""
    if separator == " ":
        spans = [match.span() for match in re.finditer(r'"[^"]+"(?=\s|$)|\S+', line.text)]
        return _unquote(line.text[spans[start][0] : spans[stop - 1][1]])
    raw = line.text.split(separator)
    if len(raw) != len(line.cells):  # quoted cells
        return separator.join(line.cells[start:stop])
    return _unquote(separator.join(raw[start:stop]))


def _is_comment(line: _Line, exists: Exists) -> bool:
    """Whether a line begins with # and no part of it is a video: `# a.mp4 1` is a comment, also where a.mp4 exists."""
    text = line.text
    if not text.startswith("#"):
        return False
    parts = [_unquote(cell) for separator in _SEPARATORS for cell in text.split(separator)]
    return not any(map(exists, [*parts, text.split(None, 1)[0], text.rsplit(None, 1)[0]]))


def _column_name(cell: str) -> str:
    return re.sub(r"[\s-]+", "_", cell.strip().lower())


def _named(line: _Line, names: tuple[str, ...]) -> int | None:
    """Index of the column whose name is the first of these names that occurs; None if none does."""
    found = {_column_name(cell): place for place, cell in reversed(list(enumerate(line.cells)))}
    return next((found[name] for name in names if name in found), None)


def _is_header(line: _Line, exists: Exists) -> bool:
    """Whether the cells are names of columns, at least one of them known: no paths, no numbers."""
    data = any(re.search(r"[/\\]|\.\w{2,4}$", cell) or re.fullmatch(r"-?[\d.]+", cell) for cell in line.cells)
    known = (_PATHS,) if len(line.cells) == 1 else (_PATHS, _LABELS)
    return not data and any(_named(line, names) is not None for names in known) and not any(map(exists, line.cells))


def _width(lines: Iterable[_Line]) -> int:
    """How many columns most lines have."""
    widths = Counter(len(line.cells) for line in lines).most_common(1)
    return widths[0][0] if widths else 0
