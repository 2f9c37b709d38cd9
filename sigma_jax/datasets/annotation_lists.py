"""Lists of videos with annotations beyond one class: UCFRep's cycles, and the frame lists of Charades.

Readers take a ListSpec and return (Found, class names), as those of list_formats.py do.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sigma_jax.data.annotations import Annotation, Cycles, Labels, encode, spans_of_frames
from sigma_jax.data.cycles import check_boundaries
from sigma_jax.datasets.listing import Found
from sigma_jax.datasets.tables import read_lines
from sigma_jax.runtime.errors import InvalidValue, refusal

_HEADER = ["original_vido_id", "video_id", "frame_id", "path", "labels"]
_VIDEO_NAME = re.compile(r"v_(?P<label>.+)_g\d+_c\d+")
_SUFFIXES = (".avi", ".mp4", ".webm", ".mkv")


def read_ucfrep(path: Path, folder: Path, split: str) -> Found:
    """Reads UCFRep's annotations: .mat files, in folders by split or not, or raw lists `Class.txt`.

    Args:
      path: a folder of such files, or one file.
      folder: UCF101's videos, or folders of their frames.
      split: name of the split.

    Raises:
      InvalidValue: there are no such files.
    """
    found = Found(path.name)
    for place in (path / split, path):
        files = [place] if place.is_file() else sorted(place.glob("*.mat")) or sorted(place.glob("*.txt"))
        for file in files:
            found.list_name = file.name
            cycles = [(0, file.stem, _try_mat(file))] if file.suffix == ".mat" else raw_cycles(file)
            for number, name, boundaries in cycles:
                _add_cycles(found, number, name, boundaries, folder, split)
        if files:
            return found
    raise InvalidValue(f"{path}: expected .mat files, in a folder {split!r} or not, or raw lists Class.txt")


def _add_cycles(
    found: Found, number: int, name: str, boundaries: np.ndarray | ValueError, folder: Path, split: str
) -> None:
    at = f"line {number} of {found.list_name}" if number else found.list_name
    try:
        if isinstance(boundaries, ValueError):
            raise boundaries
        check_boundaries(boundaries)
    except ValueError as error:
        found.refuse(number, name, str(error))
        return
    match = _VIDEO_NAME.fullmatch(name)
    label = match["label"] if match else ""
    annotation = encode(Cycles(tuple(int(b) for b in boundaries), at))
    parents = [folder / split / label, folder / label, folder]
    pictures = [parent / name for parent in parents if (parent / name).is_dir()]
    if pictures:
        found.add(number, pictures, name, label, images=(0, -1), annotation=annotation)
    else:
        files = [parent / f"{name}{suffix}" for parent in parents for suffix in _SUFFIXES]
        found.add(number, files, name, label, annotation=annotation)


def _try_mat(path: Path) -> np.ndarray | ValueError:
    try:
        return mat_cycles(path)
    except ValueError as error:
        return error


def mat_cycles(path: Path) -> np.ndarray:
    """Boundaries of the cycles in one released .mat file, int [c + 1], frames counted from 0.

    Raises:
      ValueError: another content, or numbers that contradict each other.
    """
    from scipy.io import loadmat  # slow to import, and needed for UCFRep only

    try:
        label = loadmat(path, simplify_cells=True)["label"]
        bounds = np.atleast_1d(np.asarray(label["temporal_bound"])).astype(np.int64).ravel()
        numbers = {name: int(label[name]) for name in ("start_frame", "end_frame", "temporal_bound_num", "duration")}
    except Exception as error:  # noqa: BLE001 - scipy raises many kinds of errors for damaged files
        other = f"no annotation of UCFRep: {type(error).__name__}: {error}"
        raise ValueError(refusal(error, path) or other) from error
    expected = {"temporal_bound_num": len(bounds)}
    if len(bounds):
        ends = int(bounds[0]), int(bounds[-1])
        expected |= {"start_frame": ends[0], "end_frame": ends[1], "duration": ends[1] - ends[0] + 1}
    for name, value in expected.items():
        if numbers[name] != value:
            raise ValueError(f"{name} is {numbers[name]}, but temporal_bound says {value}")
    return bounds - 1


def raw_cycles(path: Path) -> Iterator[tuple[int, str, np.ndarray | ValueError]]:
    """Reads a raw list, which names a video and then its boundaries counted from 1; 0 alone marks an unusable video.

    Returns:
      (line, video, boundaries counted from 0, or an error that says what is wrong) of every video.
    """
    name, at, numbers, wrong = "", 0, [], ""

    def finished() -> Iterator[tuple[int, str, np.ndarray | ValueError]]:
        if not name:
            return
        if wrong:
            yield at, name, ValueError(wrong)
        elif numbers == [0]:
            yield at, name, ValueError("marked as unusable (a lone 0)")
        else:
            yield at, name, np.asarray(numbers, np.int64) - 1

    for number, line in read_lines(path):
        words = re.split(r"[\s,]+", line.strip(" ,"))
        if not re.fullmatch(r"[-+]?\d.*", words[0]):
            yield from finished()
            name, at, numbers, wrong = re.sub(r"\.(avi|mp4)$", "", words[0]), number, [], ""
            words = words[1:]
        if not name:
            raise InvalidValue(f"line {number} of {path.name}: boundaries before any video name: {line!r}")
        for word in words:
            if re.fullmatch(r"\d{1,7}", word):
                numbers.append(int(word))
            else:
                wrong = f"expected numbers of frames in line {number} of {path.name}, got {word!r}"
    yield from finished()


def read_frame_list(path: Path, folder: Path, names: list[str], num_classes: int) -> Found:
    """Reads a frame list of Charades (train.csv and val.csv of SEVERE), which has one line per frame with its labels.

    Args:
      path: the list.
      folder: has one folder of frames per video.
      names: of the classes in order, or [].
      num_classes: number of classes.

    Raises:
      InvalidValue: another header.
    """
    lines = read_lines(path)
    if not lines or lines[0][1].split() != _HEADER:
        raise InvalidValue(f"{path}: expected the header {' '.join(_HEADER)!r}, got {lines[0][1] if lines else ''!r}")
    found, videos = Found(path.name), {}
    for number, line in lines[1:]:
        fields = line.split()
        if len(fields) != len(_HEADER):
            found.refuse(number, fields[0], f"expected five fields, got {len(fields)}: {line!r}")
            continue
        videos.setdefault(fields[0], []).append((number, fields))
    for video, rows in videos.items():
        first = rows[0][0]
        try:
            labels = [_frame_labels(number, fields, order, num_classes) for order, (number, fields) in enumerate(rows)]
        except ValueError as error:
            found.refuse(first, video, str(error))
            continue
        spans = spans_of_frames(labels)
        lengths = np.zeros(num_classes)
        np.add.at(lengths, [span[0] for span in spans], [span[2] - span[1] + 1 for span in spans])
        longest = int(np.argmax(lengths)) if spans else -1
        label = "" if longest < 0 else names[longest] if names else str(longest)
        pictures = Path(rows[0][1][3])
        start = int(re.findall(r"\d+", pictures.stem)[-1]) if re.search(r"\d", pictures.stem) else 0
        annotation = encode(Labels(spans, at=f"line {first} of {path.name}"))
        places = [folder / pictures.parent, folder / video]
        found.add(first, places, video, label, images=(start, len(rows)), annotation=annotation)
    return found


def _frame_labels(number: int, fields: list[str], order: int, num_classes: int) -> list[int]:
    if fields[2] != str(order):
        raise ValueError(f"line {number}: frame {fields[2]}, expected {order}: a video's frames follow each other")
    text = fields[4].strip('"')
    if text and not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text):
        raise ValueError(f"line {number}: expected labels as numbers and commas, got {fields[4]}")
    labels = [int(word) for word in text.split(",")] if text else []
    wrong = [label for label in labels if label >= num_classes]
    if wrong:
        raise ValueError(f"line {number}: labels {wrong} are not in the label map, expected 0..{num_classes - 1}")
    return labels


def charades_labels(actions: list[tuple[str, str, str]], at: str) -> Annotation:
    """(class, first second, last second) of the released csv as an annotation."""
    return Labels(tuple((int(c), float(start), float(end)) for c, start, end in actions), in_seconds=True, at=at)
