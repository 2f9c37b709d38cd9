"""Listing the videos of a folder with their classes and splits, and what all readers of lists share."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sigma_jax.data.class_names import comparable
from sigma_jax.datasets.frame_folders import has_pictures, is_picture
from sigma_jax.runtime.errors import InvalidValue

SUFFIXES = ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv"
LAYOUTS = ("auto", "classes", "splits", "unlabelled")
_USUAL = (".mp4", ".webm", ".avi", ".mkv")  # suffixes that are tried for names in lists without one

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "valset", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
_BESIDE = {"", "set", "split", "data", "video", "videos", "clips", "frames", "rawframes", "images"}  # `videos_train`


@dataclass(frozen=True)
class Entry:
    """A video to be prepared."""

    path: Path
    key: str  # relative to the folder of videos
    label: str  # as written; empty: no class
    images: tuple[int, int] = (0, -1)  # of a folder of pictures: number of the first, how many (-1: all)
    split: str = ""  # where the folder or the list says it
    annotation: str = ""  # what is known beyond the class (annotations.py)


@dataclass(frozen=True)
class Refusal:
    """A video that is left out, and the reason."""

    key: str
    reason: str


@dataclass
class Listing:
    """The videos of a folder or a list, the refused ones, and notes on how it was read."""

    entries: list[Entry] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    others: list[str] = field(default_factory=list)  # files that are no videos
    notes: list[str] = field(default_factory=list)  # sentences for the user
    subset: dict = field(default_factory=dict)  # the chosen part of a list (list_formats.take_subset); {}: all of it


def split_of(name: str) -> str:
    """The split `train`, `val` or `test` that a name means (`Training`, `videos_val`, `test_256`), or ""."""
    split, rest = _split_words(name)
    return "" if rest else split


def _split_words(name: str) -> tuple[str, frozenset[str]]:
    """(the split whose word a name contains, or ""; its other words, without general ones such as `videos`)."""
    words = re.split(r"[\W_\d]+", name.lower())
    splits = [_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES]
    return (splits[0] if len(splits) == 1 else ""), frozenset(words).difference(_SPLIT_NAMES, _BESIDE)


def _find_splits(names: set[str]) -> dict[str, str]:
    """{folder: split} of those sibling folders whose names mean splits, also `ucf_train` beside `ucf_test`."""
    found = {name: split_of(name) for name in names if split_of(name)}
    words = {name: _split_words(name) for name in names}
    if not found and len(names) > 1 and len({rest for _, rest in words.values()}) == 1:
        splits = {name: split for name, (split, _) in words.items() if split}
        found = splits if len(splits) == len(names) else {}
    return found


def list_folder(folder: Path) -> tuple[list[Entry], list[str]]:
    """(videos in order of their names, names of other files); the first folder below `folder` is the class.

    Links to folders are followed unless they form a cycle. Raises OSError where a folder cannot be read.
    """
    tree = _Tree(folder)
    return tree.videos, tree.others


class _Tree:
    """The files and folders below a folder, without hidden ones; links that form a cycle are not followed."""

    def __init__(self, folder: Path):
        self.folder, self.folders, self.real = folder, [], {}  # real: key of a file -> its path without links
        waiting = [(folder, (os.path.realpath(folder),))]
        while waiting:
            parent, above = waiting.pop()
            with os.scandir(parent) as items:
                for item in (item for item in items if not item.name.startswith(".")):
                    path = parent / item.name
                    real = os.path.realpath(path) if item.is_symlink() else os.path.join(above[-1], item.name)
                    key = path.relative_to(folder).as_posix()
                    if not _is_folder(item):
                        self.real[key] = real
                    elif real not in above:
                        self.folders.append(key)
                        waiting.append((path, (*above, real)))
        keys = sorted(self.real)
        self.videos = [self._entry(key) for key in keys if Path(key).suffix.lower() in SUFFIXES.split()]
        self.others = [key for key in keys if Path(key).suffix.lower() not in SUFFIXES.split()]

    def _entry(self, key: str) -> Entry:
        return Entry(self.folder / key, key, key.split("/")[0] if "/" in key else "")

    def use_frame_folders(self) -> None:
        """Makes videos of the folders that hold pictures."""
        frames = [key for key in self.others if is_picture(os.path.basename(key)) and "/" in key]
        self.others = sorted(set(self.others) - set(frames))
        self.real = {os.path.dirname(key): os.path.dirname(self.real[key]) for key in frames}
        self.videos = [self._entry(key) for key in sorted(self.real)]


def _is_folder(item: os.DirEntry) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def read_folder(folder: Path, layout: str = "auto") -> Listing:
    """Lists the videos of a folder; without video files, the folders of pictures in it are the videos.

    Folders are classes; videos outside of folders have no class. Folders called train, val or test above the classes,
    or below each of them, are splits. A layout that can be read in two ways is an error.

    Args:
      folder: of the videos.
      layout: one of LAYOUTS; all but `auto` define what the first folders are.

    Raises:
      InvalidValue: the layout can be read in two ways, or is not what `layout` says.
    """
    tree, listing = _Tree(folder), Listing()
    if not tree.videos:
        tree.use_frame_folders()
        listing.notes += [f"{len(tree.videos)} folders of pictures are the videos"] * bool(tree.videos)
    places = {entry.key: entry.key.split("/")[:-1] for entry in tree.videos}
    level = {"unlabelled": None, "classes": None, "splits": 0}.get(layout, -1)
    if level == -1:
        level = _split_level(folder, list(places.values()))
    splits = {} if level is None else _find_splits({place[level] for place in places.values() if len(place) > level})
    entries = [_placed(entry, places[entry.key], level, splits) for entry in tree.videos]
    if layout == "unlabelled":
        entries = [replace(entry, label="") for entry in entries]
    if level is not None:
        _check_splits(folder, places.values(), level, splits)
        counts = sorted(Counter(entry.split for entry in entries).items())
        told = ", ".join(f"{split} {count}" for split, count in counts)
        listing.notes.append(f"the folders {'above' if level == 0 else 'below'} the classes are splits: {told}")
    depth = 2 if level == 0 else 1
    used = {tuple(place[:depth]) for place in places.values()}
    empty = [key for key in tree.folders if key.count("/") == depth - 1 and tuple(key.split("/")) not in used]
    if empty and used != {()} and layout != "unlabelled":
        listing.notes.append(f"folders without a video, which make no class: {some(empty)}")
    listing.others = tree.others
    listing.entries, listing.refused = _without_the_same(entries, tree.real)
    return listing


def _placed(entry: Entry, place: list[str], level: int | None, splits: dict[str, str]) -> Entry:
    """The entry with the split named by its folder of that level, and the class named by the first other folder."""
    if level is None or len(place) <= level:
        return entry
    rest = place[:level] + place[level + 1 :]
    return replace(entry, split=splits.get(place[level], ""), label=rest[0] if rest else "")


def _split_level(folder: Path, places: list[list[str]]) -> int | None:
    """The level of the folders that are splits: 0, above the classes; 1, below them; None: there are no splits.

    `places` are the folders in which each video lies. Raises InvalidValue where the level is not unique.
    """
    tops: dict[str, set[str]] = defaultdict(set)  # a first folder -> the second ones below it, "": it has videos itself
    for top, *rest in filter(None, places):
        tops[top].add(rest[0] if rest else "")
    splits = _find_splits(set(tops))
    if splits and splits.keys() == tops.keys() and all(places):
        return 0
    if splits and (len(set(splits.values())) > 1 or any(_holds_classes(top, tops) for top in splits)):
        beside = f"the folders {some(tops.keys() - splits)}" if splits.keys() != tops.keys() else "videos in no folder"
        raise InvalidValue(
            f"{folder} holds {some(splits)}, which look like splits, beside {beside}. If all folders are classes: "
            "--layout=classes; otherwise move what is no split away"
        )
    if len(tops) == 1 and all(places):
        _check_single(folder, *tops.items())
    names = [{split_of(second) for second in seconds} for seconds in tops.values()]
    if not any(len(own - {""}) > 1 for own in names) and not (names and all(own == {"train"} for own in names)):
        if all(places):
            _check_alike(folder, tops)
        return None
    if not all(places) or any("" in own for own in names):
        raise InvalidValue(
            f"{folder} has folders called train, val or test below some of {some(tops)}, but not all of its videos lie "
            "in such folders. If they are no splits: --layout=classes; otherwise move the other videos away"
        )
    return 1


def _holds_classes(top: str, tops: dict[str, set[str]]) -> bool:
    """Whether a folder called like a split, beside others, contains folders that could be classes.

    They could be if other folders contain folders of the same names, or contain videos directly.
    """
    others = set().union(*(seconds for other, seconds in tops.items() if other != top))
    return "" not in tops[top] and ("" in others or bool(tops[top] & others) or len(tops) == 1)


def _check_single(folder: Path, only: tuple[str, set[str]]) -> None:
    """Raises InvalidValue where the only folder, which contains all videos, may be above the classes."""
    top, seconds = only
    if "" not in seconds and len(seconds) > 1:
        raise InvalidValue(
            f"all videos lie below {folder / top}, in its folders {some(seconds)}. If these are classes or splits: "
            f"--videos={folder / top}; if {top!r} is a class: --layout=classes"
        )


def _check_alike(folder: Path, tops: dict[str, set[str]]) -> None:
    """Raises InvalidValue where all of several first folders contain the same folders, which may be the classes."""
    seconds = next(iter(tops.values()), set())
    if len(tops) > 1 and len(seconds) > 1 and "" not in seconds and all(own == seconds for own in tops.values()):
        raise InvalidValue(
            f"the folders {some(tops)} of {folder} hold the same folders, {some(seconds)}. If those are the classes: "
            f"call the upper ones train, val or test; if {some(tops)} are the classes: --layout=classes"
        )


def _check_splits(folder: Path, places: Iterable[list[str]], level: int, splits: dict[str, str]) -> None:
    """Raises InvalidValue where a video is in no split, or two folders mean the same split."""
    names = {place[level] if len(place) > level else "" for place in places}
    if names - splits.keys():
        strange = some(names - splits.keys())
        raise InvalidValue(f"--layout=splits expects only folders called train, val or test in {folder}, got {strange}")
    clashes = [name for name, count in Counter(splits.values()).items() if count > 1]
    if clashes and level == 0:
        raise InvalidValue(f"{folder} has several folders that mean {clashes[0]!r}, of {some(names)}: keep one of them")


def _without_the_same(entries: list[Entry], real: dict[str, str]) -> tuple[list[Entry], list[Refusal]]:
    """(entries, refusals): files that links bring in twice, perhaps in two classes or splits, are refused."""
    seen, kept, refused = {}, [], []
    for entry in entries:
        first = seen.setdefault(real[entry.key], entry)
        if first is entry:
            kept.append(entry)
            continue
        refused.append(Refusal(entry.key, f"is a link to the same file as {first.key}{_difference(first, entry)}"))
    return kept, refused


def _difference(first: Entry, other: Entry) -> str:
    """How two entries of one video contradict each other."""
    if comparable(first.label) != comparable(other.label):
        return f", there with class {first.label!r}, here {other.label!r}"
    return f", there in split {first.split!r}, here {other.split!r}" if first.split != other.split else ""


def some(names: Iterable[str], limit: int = 6) -> str:
    """A few of many names, for a message."""
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more


@dataclass(frozen=True)
class Line:
    """A line of a list that names a video with a class, and what became of it."""

    number: int
    label: str
    found: Entry | Refusal


class Found(Listing):
    """The videos of one list; missing videos and repeated ones are refused with the number of the line.

    Attributes:
      list_name: the file whose lines are being read; a list may consist of several files.
      lines: all lines that could be parsed, in order, whether or not their video exists.
    """

    def __init__(self, list_name: str):
        super().__init__()
        self.list_name, self._seen = list_name, {}
        self.lines: list[Line] = []

    def add(
        self,
        number: int,
        places: list[Path],
        key: str,
        label: str,
        images: tuple[int, int] | None = None,
        **more: str,
    ) -> None:
        """Adds the first of `places` that exists, or refuses the video.

        Args:
          number: of the line.
          places: candidate paths.
          key: name of the video.
          label: its class, "" for none.
          images: for a folder of pictures, number of the first and count (Entry.images).
          more: split and annotation of the Entry.
        """
        found = self._find(number, places, Entry(Path(), key, label, images or (0, -1), **more), bool(images))
        if isinstance(found, Entry):
            self.entries.append(found)
        else:
            self.refused.append(found)
        self.lines.append(Line(number, label, found))

    def _find(self, number: int, places: list[Path], entry: Entry, is_folder: bool) -> Entry | Refusal:
        try:
            path = next((p for p in places if (p.is_dir() if is_folder else p.is_file())), None)
        except (ValueError, OSError) as error:  # a NUL in the name, a name too long
            return self._refusal(number, entry.key, f"no possible path: {error}")
        if not path:
            others = f", nor under {len(places) - 1} other names, the last {places[-1]}" if len(places) > 1 else ""
            reason = f"no such {'folder' if is_folder else 'file'} {places[0]}{others}"
            return self._refusal(number, entry.key, reason)
        entry = replace(entry, path=path)
        first, line = self._seen.setdefault(os.path.realpath(path), (entry, f"line {number} of {self.list_name}"))
        if first is not entry:
            return self._refusal(number, entry.key, f"already listed in {line}{_difference(first, entry)}")
        return entry

    def _refusal(self, number: int, key: str, reason: str) -> Refusal:
        return Refusal(key, f"line {number} of {self.list_name}: {reason}")

    def refuse(self, number: int, key: str, reason: str) -> None:
        """Refuses a line that names no usable video."""
        self.refused.append(self._refusal(number, key, reason))


def is_video(path: Path) -> bool:
    """Whether the path is a file, or a folder of pictures."""
    try:
        return path.is_file() or (path.is_dir() and has_pictures(path))
    except (ValueError, OSError):  # a NUL in the name, a name too long, no permission
        return False


def places(folder: Path, name: str, label: str = "", other_suffixes: bool = False) -> list[Path]:
    """Candidate paths of the video that a list calls `name`, in the folder itself or in that of its class.

    The name as it is comes first; then with `/` for `\\`, with composed and decomposed accents, and with the suffix in
    the other case. A name without a suffix is tried with the usual ones, with `other_suffixes` also instead of its own.
    """
    slashed = name.replace("\\", "/")
    forms = [name, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))]
    stem, dot, suffix = slashed.rpartition(".")
    if f".{suffix.lower()}" in SUFFIXES.split():
        forms += [stem + dot + other for other in (suffix.lower(), suffix.upper())]
        forms += [stem + other for other in _USUAL] * other_suffixes
    else:
        usual = [form + other for form in dict.fromkeys(forms[1:]) for other in _USUAL]
        forms = usual if other_suffixes else forms + usual
    parents = [folder] + [folder / text for text in dict.fromkeys((label, label.replace(" ", "_"))) if label]
    return [parent / form for parent in parents for form in dict.fromkeys(forms)]


def printable(text: str) -> str:
    """The text for a terminal, with control characters and invalid bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
