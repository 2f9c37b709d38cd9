"""Annotated sequences on disk: DAVIS 2017, YouTube-VOS, and folders with `frames/` and `masks/`.

A sequence with a problem is left out, with a sentence that names the file; nothing is replaced.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from sigma_jax.runtime.errors import InvalidValue, NotThere, UserError

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
LAYOUTS = ("davis", "ytvos", "folder")


class BadSequence(UserError, ValueError):
    """A sequence that cannot be measured.

    Attributes:
      kind: short name under which such sequences are counted.
    """

    def __init__(self, kind: str, sentence: str):
        super().__init__(sentence)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Note:
    """Something that a reader of the numbers should know about one sequence."""

    sequence: str
    kind: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Sequence:
    """Frames in order, each with its mask.

    Attributes:
      name: of the sequence, with '/' where folders are nested.
      frames, masks: files, of equal number.
      categories: instance number in a mask -> class; None where instance numbers are the classes.
      notes: on unusual properties that do not prevent measuring.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    categories: Mapping[int, int] | None = None
    notes: tuple[Note, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The sequences of a folder, sorted by name, a Note for each one that is left out, and the folder of the masks."""

    sequences: tuple[Sequence, ...]
    left_out: tuple[Note, ...]
    annotations: Path


def open_sequences(
    data_dir: str | Path, layout: str, split: str | None = None, *, names: Path | None = None, unsupervised: bool = True
) -> DataSet:
    """The sequences of a released data set, or of a folder.

    Args:
      layout: 'davis' (JPEGImages/480p, Annotations*/480p, ImageSets/2017/<split>.txt), 'ytvos' (<split>/JPEGImages,
        Annotations, meta.json) or 'folder' (frames/<sequence>/, masks/<sequence>/, or one sequence in frames/, masks/).
      data_dir: the folder.
      split: None for 'val' of DAVIS, 'train' of YouTube-VOS.
      names: file with one sequence a line, if only these are measured.
      unsupervised: whether DAVIS's Annotations_unsupervised are used, if they exist.

    Raises:
      InvalidValue, NotThere: an unknown layout, or a folder without it; the message says what is missing.
    """
    root = Path(data_dir)
    if layout not in LAYOUTS:
        raise InvalidValue(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise NotThere(f"{root} is no folder")
    wanted = None if names is None else _lines(names)
    if layout == "davis":
        return _davis(root, split or "val", wanted, unsupervised)
    if layout == "ytvos":
        return _ytvos(root, split or "train", wanted)
    if split:
        raise InvalidValue(f"split={split!r}: a folder of frames/ and masks/ has no splits; leave it out")
    return _folder(root, wanted)


def _davis(root: Path, split: str, wanted: list[str] | None, unsupervised: bool) -> DataSet:
    listed = root / "ImageSets" / "2017" / f"{split}.txt"
    if not listed.is_file():
        raise NotThere(f"{listed} is not there: expected a DAVIS 2017 folder with the split {split!r}")
    frames = root / "JPEGImages" / "480p"
    masks = root / "Annotations_unsupervised" / "480p"
    if not unsupervised or not masks.is_dir():
        masks = root / "Annotations" / "480p"
    for folder in (frames, masks):
        if not folder.is_dir():
            raise NotThere(f"{folder} is not there: expected the 480p release of DAVIS 2017")
    return _collect(wanted or _lines(listed), frames, masks, _davis_pairs)


def _davis_pairs(name: str, frames: dict[str, Path], masks: dict[str, Path]) -> Sequence:
    for stem, path in frames.items():
        if stem not in masks:
            raise BadSequence("frame without a mask", f"{path} has no mask of the same name")
    numbers = [int(stem) for stem in frames if stem.isdigit()]
    if len(numbers) == len(frames) and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        missing = next(n for n in range(numbers[0], numbers[-1]) if n not in set(numbers))
        path = next(iter(frames.values()))
        raise BadSequence(
            "missing frame", f"{path.with_stem(f'{missing:05d}')} is not there, but frames before and after it are"
        )
    return Sequence(name, tuple(frames.values()), tuple(masks[stem] for stem in frames))


def _ytvos(root: Path, split: str, wanted: list[str] | None) -> DataSet:
    folder = root / split if (root / split).is_dir() else root
    frames, masks, meta = folder / "JPEGImages", folder / "Annotations", folder / "meta.json"
    for path in (frames, masks, meta):
        if not path.exists():
            raise NotThere(f"{path} is not there: expected a YouTube-VOS folder (JPEGImages, Annotations, meta.json)")
    try:
        videos = json.loads(meta.read_text())["videos"]
        categories = category_numbers(videos)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidValue(f"{meta} is no YouTube-VOS description ({error!r})") from error

    def pairs(name: str, frames: dict[str, Path], masks: dict[str, Path]) -> Sequence:
        if name not in videos:
            raise BadSequence("not in meta.json", f"{meta} has no video {name!r}")
        table = {}
        for number, instance in videos[name].get("objects", {}).items():
            if "category" not in instance:
                raise BadSequence("not in meta.json", f"{meta}: object {number} of video {name!r} has no category")
            if not number.isdecimal():
                raise BadSequence("not in meta.json", f"{meta}: object {number!r} of video {name!r} is no number")
            table[int(number)] = categories[instance["category"]]
        return dataclasses.replace(_annotated(name, frames, masks), categories=table)

    return _collect(wanted or sorted(_folders(frames)), frames, masks, pairs)


def category_numbers(videos: Mapping) -> dict[str, int]:
    """Numbers of the categories in the 'videos' of a meta.json, from 1 in the order of their names (as TimeT)."""
    names = {
        instance["category"]
        for video in videos.values()
        for instance in video.get("objects", {}).values()
        if "category" in instance
    }
    return {name: number for number, name in enumerate(sorted(names), start=1)}


def _folder(root: Path, wanted: list[str] | None) -> DataSet:
    frames, masks = root / "frames", root / "masks"
    for path in (frames, masks):
        if not path.is_dir():
            raise NotThere(f"{path} is not there: expected {root} to hold frames/ and masks/")
    names = sorted(_folders(frames))
    if not names:  # a single sequence
        return _collect(["."], frames, masks, lambda _, *files: _annotated(root.resolve().name, *files))
    return _collect(wanted or names, frames, masks, _annotated)


def _annotated(name: str, frames: dict[str, Path], masks: dict[str, Path]) -> Sequence:
    """The frames that have masks; other frames are allowed, since some sets annotate every n-th frame only."""
    stems = [stem for stem in frames if stem in masks]
    if not stems:
        raise BadSequence("no masks", f"{next(iter(masks.values()))} and the other masks belong to none of the frames")
    notes = ()
    if len(stems) < len(frames):
        sentence = f"{name}: {len(frames) - len(stems)} of {len(frames)} frames have no mask and are not used"
        notes = (Note(name, "frames without masks", sentence),)
    return Sequence(name, tuple(frames[stem] for stem in stems), tuple(masks[stem] for stem in stems), notes=notes)


def _collect(names: Iterable[str], frames: Path, masks: Path, pairs) -> DataSet:
    """Makes a sequence of every name with `pairs`; names that have no usable files are left out."""
    sequences, left_out = [], []
    for name in sorted(names):
        try:
            found = _files(frames / name, FRAME_SUFFIXES, "frames"), _files(masks / name, (".png",), "masks")
            for stem, path in found[1].items():
                if stem not in found[0]:
                    raise BadSequence(
                        "missing frame", f"{frames / name / stem}.jpg is not there, but its mask {path} is"
                    )
            sequences.append(pairs(name, *found))
        except BadSequence as error:
            left_out.append(Note(name, error.kind, str(error)))
    return DataSet(tuple(sequences), tuple(left_out), masks)


def _files(folder: Path, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    """Files by their stem, sorted by name."""
    if not folder.is_dir():
        raise BadSequence(f"no {what}", f"{folder} is not there: the sequence has no {what}")
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes}
    if not found:
        raise BadSequence(f"no {what}", f"{folder} holds no {what} ({', '.join(suffixes)})")
    return found


def _folders(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.is_dir()]


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if not lines:
        raise InvalidValue(f"{path} names no sequence")
    return lines
