"""Reads the lists with which data sets were released: their videos and labels.

Every reader takes a ListSpec and returns (Found, class names in order). The names are [] if labels are numbers, or if
no file states the order. A video name without a suffix is looked up with the usual suffixes, in the folder itself and
in that of its class.
"""

import csv
import functools
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sigma_jax.data.annotations import encode
from sigma_jax.data.class_names import comparable, spelling
from sigma_jax.data.pictures import BadVideo
from sigma_jax.datasets.annotation_lists import charades_labels, read_frame_list, read_ucfrep
from sigma_jax.datasets.classes import shipped_names
from sigma_jax.datasets.frame_folders import list_frames
from sigma_jax.datasets.listing import Entry, Found, Refusal, is_video, places, split_of
from sigma_jax.datasets.numbering import are_numbers
from sigma_jax.datasets.specs import SPECS
from sigma_jax.datasets.subsets import choose, describe, lookup_subset
from sigma_jax.datasets.tables import read_lines, read_rows, read_table, read_text
from sigma_jax.runtime.errors import InvalidValue

_CHARADES_CLASSES = "Charades_v1_classes.txt"
FOLDER_FORMATS = ("hmdb51", "ucfrep")  # formats whose list may be a folder of files
_WITHOUT_NAMES = ("videomae_v2", "hmdb51")
_WITH_ANY_LABELS = ("csv", "rawframes")
_LOOKED_AT = 50  # folders whose pictures are counted to recognise a list in another format


@dataclass(frozen=True)
class ListSpec:
    """A list and what the user says about it.

    Attributes:
      path: the list.
      folder: of the videos.
      split: the wanted split, in lists that hold several.
      labels: file with the class names, or None.
      subset: one of subsets.SUBSETS, or "".
      labels_are: `names` or `numbers`; `auto`: numbering.are_numbers decides.
    """

    path: Path
    folder: Path
    split: str = "train"
    labels: Path | None = None
    subset: str = ""
    labels_are: str = "auto"


def read_list(name: str, spec: ListSpec) -> tuple[Found, list[str]]:
    """Reads a list in the format `name`, one of FORMATS.

    Raises:
      InvalidValue: the list or the file of class names is not in that format, or a needed one is not given.
    """
    if name not in FORMATS:
        raise InvalidValue(f"format {name!r} is unknown, expected one of {sorted(FORMATS)}")
    if spec.labels and name in _WITHOUT_NAMES:
        raise InvalidValue(f"lists in the format {name!r} need no class names: leave out {spec.labels}")
    if spec.labels_are != "auto" and name not in _WITH_ANY_LABELS:
        raise InvalidValue(f"the format {name!r} defines what labels are: leave out --labels_are={spec.labels_are}")
    try:
        found, names = FORMATS[name](spec)
    except (csv.Error, KeyError, TypeError, AttributeError) as error:
        raise InvalidValue(f"{spec.path} is not in the format {name!r}: {type(error).__name__}: {error}") from error
    return (found, names) if not spec.subset else take_subset(spec.subset, name, spec, found, names)


def take_subset(
    subset: str, list_format: str, spec: ListSpec, found: Found, names: list[str]
) -> tuple[Found, list[str]]:
    """The part of a list on which SEVERE trains, in the order in which it is drawn, and its class names.

    `found.subset` records which lines were drawn (counted from 0), from which list, and any difference to the published
    part.

    Raises:
      InvalidValue: no list of the data set that the subset is drawn from.
    """
    part = lookup_subset(subset, list_format)
    texts = names or shipped_names(part.of)
    are_numbered = are_numbers([Entry(Path(), "", line.label) for line in found.lines])
    indices = {str(n) if are_numbered else spelling(text): n for n, text in enumerate(texts)}
    strangers = [line for line in found.lines if spelling(line.label) not in indices]
    if strangers:
        raise InvalidValue(
            f"line {strangers[0].number} of {spec.path}: label {strangers[0].label!r} is none of the {len(texts)} "
            f"classes of {part.of}: {subset} is drawn from its list"
        )
    rows, labels = choose(part, np.asarray([indices[spelling(line.label)] for line in found.lines], int), spec.split)
    chosen = [found.lines[row] for row in rows]
    first = part.classes.start if part.classes else 0
    kept = texts[first : first + part.num_classes]
    shown = [str(number) for number in range(part.num_classes)] if are_numbered else kept
    malformed = [refusal for refusal in found.refused if refusal not in [line.found for line in found.lines]]
    pairs = list(zip(chosen, labels.tolist(), strict=True))
    found.entries = [replace(line.found, label=shown[label]) for line, label in pairs if isinstance(line.found, Entry)]
    missing = [line.found for line in chosen if isinstance(line.found, Refusal)]
    found.refused = malformed + missing
    found.subset = describe(subset, spec.path, spec.split, len(found.lines), (rows, labels))
    return found, [] if are_numbered else kept


def _places(folder: Path, name: str, label: str = "") -> list[Path]:
    return places(folder, name, label, other_suffixes=True)


def _class_names(path: Path | None, first: int) -> list[str]:
    """Class names of lines `number name` or `name number`, numbers from `first` without a gap; [] without a file."""
    if path is None:
        return []
    found = {}
    for _, line in read_lines(path):
        match = re.fullmatch(r"c?(\d+)\s+(.+)", line) or re.fullmatch(r"(?P<name>.+?)\s+(?P<number>\d+)", line)
        if not match:
            raise InvalidValue(f"{path}: expected a class name and its number in each line, got {line!r}")
        named = match.groupdict()
        found[int(named.get("number", match[1]) if named else match[1]) - first] = named.get("name") or match[2]
    if sorted(found) != list(range(len(found))):
        raise InvalidValue(f"{path}: expected the numbers {first}..{len(found) + first - 1}, each once")
    return [found[number] for number in range(len(found))]


def read_names(path: Path | None) -> list[str]:
    """Class names, one a line, in order; [] without a file."""
    return [line for _, line in read_lines(path)] if path else []


def _json(path: Path):
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"{path} is no JSON: {error}") from error


def _integer(value: int | str) -> int:
    """A class number, which some lists write as text; -1 if it is none."""
    return int(value) if re.fullmatch(r"[0-9]{1,9}", str(value)) else -1


def _same_split(found: str, wanted: str) -> bool:
    return found.strip().lower()[:3] == wanted.lower()[:3]  # val and validate, test and testing


def _csv(spec: ListSpec) -> tuple[Found, list[str]]:
    """A table of paths and labels (tables.py); if a file with class names is given, numbers are lines of that file.

    A path may be a folder of pictures. A table with a column of splits lists the videos of all of them.
    """

    find = functools.cache(functools.partial(_find, spec.folder))
    table = read_table(spec.path, lambda name: find(name) is not None)
    found, names = Found(spec.path.name), _distinct(read_names(spec.labels))
    found.notes = table.notes
    strange = sorted({row.split for row in table.rows if row.split and not split_of(row.split)})
    if strange:
        raise InvalidValue(f"{spec.path} has a column of splits with {strange[:4]}, expected train, val or test")
    for number, text, reason in table.misfits:
        found.refuse(number, text, reason)
    # pandas writes integers as 1.0 if a cell of their column is empty
    decimals = all(re.fullmatch(r"-?\d+\.0*", row.label) for row in table.rows if row.label)
    for row in table.rows:
        path, label = find(row.path), row.label.partition(".")[0] if decimals else row.label
        where = [path] if path else places(spec.folder, row.path)[:1]
        images = (0, -1) if path and path.is_dir() else None
        found.add(row.number, where, row.path, label, images, split=split_of(row.split))
    return _with_names(found, names, spec.labels_are), names


def _find(folder: Path, name: str) -> Path | None:
    """The video file, or the folder of pictures, that a list calls `name`."""
    return next(filter(is_video, places(folder, name)), None) if name else None


def _with_names(found: Found, names: list[str], labels_are: str) -> Found:
    """Replaces labels that are numbers by their class names, if names are given."""
    if labels_are == "auto" and not {entry.label for entry in found.entries} <= {"", *names}:
        labels_are = "numbers" if are_numbers(found.entries) else "names"
    if names and labels_are == "numbers":
        texts = {str(number): name for number, name in enumerate(names)} | {"-1": ""}
        found.entries = [replace(entry, label=texts.get(entry.label, entry.label)) for entry in found.entries]
    return found


def _videomae_v2(spec: ListSpec) -> tuple[Found, list[str]]:
    """Pre-training lists: `video 0 -1` or `folder_of_pictures first count`; no labels."""
    found = Found(spec.path.name)
    for number, line in read_lines(spec.path):
        match = re.fullmatch(r"(.+?)[\s,]+(\d+)[\s,]+(-?\d+)", line)
        if not match or match[3] == "0":
            found.refuse(number, line, "expected `path first count`, and a count that is not 0")
            continue
        first, count = int(match[2]), int(match[3])
        found.add(number, places(spec.folder, match[1]), match[1], "", (first, count) if count >= 0 else None)
    folders = [(entry.path, *entry.images) for entry in found.entries if entry.images[1] >= 0]
    _check_counts(spec, folders, "rawframes")
    return found, []


def _rawframes(spec: ListSpec) -> tuple[Found, list[str]]:
    """`folder total label` or `folder offset total label`, and videos in place of folders; numbers from 0 or names."""
    found, names = Found(spec.path.name), _distinct(read_names(spec.labels))
    for number, line in read_lines(spec.path):
        cells = re.fullmatch(r"(.+?)[\s,;]+(\d+)[\s,;]+([^\s,;]+)", line)
        offset = cells and re.fullmatch(r"(.+?)[\s,;]+(\d+)", cells[1])
        if not cells:
            found.refuse(number, line, "expected `folder total label` or `folder offset total label`")
            continue
        name, skipped, total, label = cells[1], 0, int(cells[2]), cells[3]
        if offset and not _find(spec.folder, name) and _find(spec.folder, offset[1]):
            name, skipped = offset[1], int(offset[2])
        path = _find(spec.folder, name) or spec.folder / name
        if path.is_file():
            found.add(number, [path], name, label)
            continue
        first = _first_number(path) + skipped if skipped else 0
        found.add(number, [path], name, label, (first, total))
    numbered = [entry for entry in found.entries if entry.images[1] >= 0 and entry.label.isdecimal()]
    _check_counts(spec, [(entry.path, int(entry.label), entry.images[1]) for entry in numbered], "videomae_v2")
    return _with_names(found, names, spec.labels_are), names


def _first_number(folder: Path) -> int:
    """Smallest frame number of a folder of pictures; 0 if it cannot be read, which is reported when it is prepared."""
    try:
        return min(list_frames(folder), default=0)
    except (OSError, BadVideo):
        return 0


def _check_counts(spec: ListSpec, lines: list[tuple[Path, int, int]], other: str) -> None:
    """Raises InvalidValue where the numbers of pictures show that a list is in another format.

    Args:
      lines: (folder, the number in the line that means something else in this format, the number of its pictures).
      other: the format in which the former number is that of the pictures.
    """
    looked_at = []
    for folder, wrong, right in lines[:_LOOKED_AT]:
        try:
            looked_at.append((len(list_frames(folder)), wrong, right))
        except (OSError, ValueError, BadVideo):
            continue
    if looked_at and all(count == wrong != right for count, wrong, right in looked_at):
        raise InvalidValue(
            f"{spec.path}: in each line the number of pictures stands where this format has another number: "
            f"choose --format={other}"
        )


def _kinetics(spec: ListSpec) -> tuple[Found, list[str]]:
    """label,youtube_id,time_start,time_end,split; files `id_000012_000022.mp4`, in class folders or not."""
    found = Found(spec.path.name)
    for number, row in read_rows(spec.path):
        if row.get("split") and not _same_split(row["split"], spec.split):
            continue
        label, times = row.get("label", "").strip(), (row["time_start"], row["time_end"])
        if not all(re.fullmatch(r"\d{1,6}(\.\d+)?", time) for time in times):
            found.refuse(number, row["youtube_id"], f"expected seconds in time_start and time_end, got {times}")
            continue
        name = "_".join([row["youtube_id"], *(f"{int(float(time)):06d}" for time in times)])
        found.add(number, _places(spec.folder, name, label), name, label)
    return found, read_names(spec.labels)


def _ssv2(spec: ListSpec) -> tuple[Found, list[str]]:
    """[{"id": "12", "template": "Moving [something] up"}] and labels {"Moving something up": "98"}; files `12.webm`."""
    numbers = {name: _integer(number) for name, number in _json(spec.labels).items()} if spec.labels else {}
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise InvalidValue(f"{spec.labels}: expected the numbers 0..{len(numbers) - 1}, each once")
    found = Found(spec.path.name)
    for number, item in enumerate(_json(spec.path), 1):
        label = re.sub(r"[\[\]]", "", item.get("template", ""))
        found.add(number, _places(spec.folder, str(item["id"])), str(item["id"]), label)
    return found, sorted(numbers, key=numbers.get)


def _ucf101(spec: ListSpec) -> tuple[Found, list[str]]:
    """trainlist: `Class/video.avi 1`, testlist: `Class/video.avi`; classInd: `1 Class`. The folder names the class."""
    found = Found(spec.path.name)
    for number, line in read_lines(spec.path):
        name = re.sub(r"\s+\d+$", "", line)
        label = Path(name.replace("\\", "/")).parent.name
        file = re.split(r"[/\\]", name)[-1]
        found.add(number, [*_places(spec.folder, name), *_places(spec.folder, file)], name, label)
    return found, _class_names(spec.labels, first=1)


def _hmdb51(spec: ListSpec) -> tuple[Found, list[str]]:
    """A folder of `class_test_split1.txt` files (or one): `video.avi n`, n = 1 train, 2 test, 0 neither."""
    paths = [spec.path]
    if spec.path.is_dir():
        paths = sorted(spec.path.glob("*_test_split*.txt"))
        numbers = {path.stem[-1] for path in paths}
        if len(numbers) != 1:
            raise InvalidValue(
                f"{spec.path}: expected class_test_splitN.txt files of one split N, got {sorted(numbers)}"
            )
    wanted, found, names = "1" if _same_split("train", spec.split) else "2", Found(spec.path.name), []
    for path in paths:
        label = re.sub(r"_test_split\d$", "", path.stem)
        found.list_name = path.name
        names.append(label)
        for number, line in read_lines(path):
            name, _, kind = line.rpartition(" ")
            if kind == wanted and name:
                found.add(number, _places(spec.folder, name.strip(), label), f"{label}/{name.strip()}", label)
            elif kind not in ("0", "1", "2"):
                found.refuse(number, line, "expected `video 0|1|2`")
    return found, sorted(names)


def _mini_kinetics(spec: ListSpec) -> tuple[Found, list[str]]:
    """`id_000020_000030 4`, numbers from 1; names: `abseiling 1`."""
    names = _class_names(spec.labels, first=1)
    return _numbered(spec, first=1, names=names), names


def _gym99(spec: ListSpec) -> tuple[Found, list[str]]:
    """`clip.avi 78`, numbers from 0; names one a line, in order."""
    names = _distinct(read_names(spec.labels))
    return _numbered(spec, first=0, names=names), names


def _distinct(names: list[str]) -> list[str]:
    """Appends the class number to names that several classes share, as Gym99 has one."""
    counts = Counter(map(comparable, names))
    return [name if counts[comparable(name)] == 1 else f"{name}, class {index}" for index, name in enumerate(names)]


def _numbered(spec: ListSpec, first: int, names: list[str]) -> Found:
    found = Found(spec.path.name)
    for number, line in read_lines(spec.path):
        match = re.fullmatch(r"(.+?)\s+(\d+)", line)
        label = int(match[2]) - first if match else -1
        if label < 0 or (names and label >= len(names)):
            found.refuse(number, line, f"expected `video number`, numbers {first}..{len(names) + first - 1 or 'n'}")
            continue
        text = names[label] if names else str(label)
        found.add(number, _places(spec.folder, match[1], text), match[1], text)
    return found


def _charades(spec: ListSpec) -> tuple[Found, list[str]]:
    """id,...,actions ("c077 12.10 18.00;c079 ..."): files `id.mp4`. The label is the action that lasts longest.

    All actions are kept as an annotation, in seconds.

    Class names come from the release's own file where it lies beside the list.
    """
    beside = spec.path.parent / _CHARADES_CLASSES
    labels = spec.labels or (beside if beside.is_file() else None)
    names, found = _class_names(labels, first=0), Found(spec.path.name)
    for number, row in read_rows(spec.path):
        actions = re.findall(r"c(\d{3}) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)", row["actions"])
        longest = max(actions, key=lambda action: float(action[2]) - float(action[1]), default=None)
        index = int(longest[0]) if longest else -1
        if names and index >= len(names):
            found.refuse(number, row["id"], f"action c{index:03d} is not among the {len(names)} class names")
            continue
        wrong = [c for c, _, _ in actions if int(c) >= (len(names) or SPECS["charades"].num_classes)]
        if wrong or len(actions) != len(row["actions"].strip(" ;").split(";")) * bool(row["actions"].strip(" ;")):
            found.refuse(number, row["id"], f"expected `c000 start end;...` in actions, got {row['actions']!r}")
            continue
        label = "" if index < 0 else names[index] if names else str(index)
        annotation = encode(charades_labels(actions, f"line {number} of {spec.path.name}"))
        found.add(number, _places(spec.folder, row["id"]), row["id"], label, annotation=annotation)
    return found, names


def _diving48(spec: ListSpec) -> tuple[Found, list[str]]:
    """[{"vid_name": "x_00001", "label": 0}] and a vocabulary [["Back", "15som", "05Twis", "FREE"], ...]."""
    names, found = ["-".join(parts) for parts in _json(spec.labels)] if spec.labels else [], Found(spec.path.name)
    for number, item in enumerate(_json(spec.path), 1):
        label = _integer(item["label"])
        if label < 0 or (names and label >= len(names)):
            found.refuse(number, str(item["vid_name"]), f"label {item['label']} is not in the vocabulary")
            continue
        text = names[label] if names else str(label)
        found.add(number, _places(spec.folder, str(item["vid_name"]), text), str(item["vid_name"]), text)
    return found, names


def _charades_frames(spec: ListSpec) -> tuple[Found, list[str]]:
    """SEVERE's frame lists of Charades: `original_vido_id video_id frame_id path labels`, one line a frame."""
    beside = spec.path.parent / _CHARADES_CLASSES
    names = _class_names(spec.labels or (beside if beside.is_file() else None), first=0)
    return read_frame_list(spec.path, spec.folder, names, len(names) or SPECS["charades"].num_classes), names


def _ucfrep(spec: ListSpec) -> tuple[Found, list[str]]:
    """A folder of UCFRep's .mat files (train/ and val/) or of its raw lists; the class is part of a video's name."""
    return read_ucfrep(spec.path, spec.folder, spec.split), _class_names(spec.labels, first=1)


FORMATS: dict[str, Callable[[ListSpec], tuple[Found, list[str]]]] = {
    "csv": _csv,
    "videomae_v2": _videomae_v2,
    "rawframes": _rawframes,
    "kinetics": _kinetics,
    "ssv2": _ssv2,
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
    "mini_kinetics": _mini_kinetics,
    "gym99": _gym99,
    "charades": _charades,
    "diving48": _diving48,
    "charades_frames": _charades_frames,
    "ucfrep": _ucfrep,
}
