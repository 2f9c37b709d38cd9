"""Videos that are folders of pictures, one a frame: `img_00001.jpg`, `image_1.png`, `frame000000.jpg`, `00000.jpg`.

The last number in a name is the number of the frame. All frames of a video must belong to one series of names: optical
flow (`flow_x_00001.jpg`) beside the pictures is ignored, any other picture that is no frame is an error.
"""

import os
import re
from collections import defaultdict
from pathlib import Path

from sigma_jax.data.pictures import BadVideo

_PICTURE = re.compile(r"\.(jpe?g|png|bmp|webp)$", re.IGNORECASE)
_FRAME = re.compile(r"(?P<series>.*?)(?P<number>\d+)(?P<rest>\D*)\.\w+")
_FLOW = re.compile(r"flow|(?:x|y|u|v)(?:_|$)", re.IGNORECASE)


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by its suffix; hidden files are none."""
    return not name.startswith(".") and _PICTURE.search(name) is not None


def has_pictures(folder: Path) -> bool:
    """Whether pictures lie directly in a folder."""
    with os.scandir(folder) as items:
        return any(is_picture(item.name) for item in items)


def list_frames(folder: Path) -> dict[int, Path]:
    """{number: picture} of the one series of pictures in a folder, in order.

    Raises:
      BadVideo: pictures without a number, several series, or a number that two pictures have.
    """
    series = defaultdict(list)
    for path in folder.iterdir():
        if is_picture(path.name):
            match = _FRAME.fullmatch(path.name)
            series[match["series"] + "*" + match["rest"] if match else path.name].append((match, path))
    if len(series) > 1:
        series = {name: items for name, items in series.items() if not _FLOW.match(name)} or series
    if len(series) > 1:
        raise BadVideo(f"pictures of {len(series)} series, {', '.join(sorted(series)[:4])}: keep those of one")
    frames = {}
    for match, path in next(iter(series.values()), []):
        if match is None:
            raise BadVideo(f"{path.name} has no number that says which frame it is")
        number = int(match["number"])
        if number in frames:
            raise BadVideo(f"{frames[number].name} and {path.name} have the same number")
        frames[number] = path
    return dict(sorted(frames.items()))


def folder_stamp(folder: Path) -> tuple[int, int, int]:
    """(number, bytes, latest modification time) of the pictures in a folder, by which changes are recognised."""
    stats = [path.stat() for path in folder.iterdir() if is_picture(path.name)]
    return len(stats), sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def choose_frames(folder: Path, start: int = 0, count: int = -1) -> tuple[list[Path], str]:
    """The frames of a video.

    Args:
      folder: the pictures.
      start: number of the first frame.
      count: number of frames; -1: all.

    Returns:
      (pictures in order, a warning that names missing numbers, or "").

    Raises:
      BadVideo: fewer pictures than `count`, or no unique series (list_frames).
    """
    frames = {number: path for number, path in list_frames(folder).items() if number >= start}
    if len(frames) < count:
        raise BadVideo(f"{len(frames)} pictures from number {start} on, the list says {count}")
    numbers = list(frames)[: count if count >= 0 else None]
    return [frames[number] for number in numbers], _gaps(numbers, start)


def _gaps(numbers: list[int], start: int) -> str:
    """A sentence about missing numbers in a series that should ascend by one; "" if none is missing."""
    steps = [high - low for low, high in zip(numbers, numbers[1:], strict=False)]
    if len(steps) > 1 and steps[0] > 1 and len(set(steps)) == 1:
        return f"only every {steps[0]}th picture is there, from number {numbers[0]} on"
    first = max(start, 1)  # numbers from 0 and from 1 are both usual
    gaps = [(first, numbers[0] - 1)] if numbers and numbers[0] > first else []
    gaps += [(low + 1, high - 1) for low, high in zip(numbers, numbers[1:], strict=False) if high > low + 1]
    told = [str(low) if low == high else f"{low}..{high}" for low, high in gaps]
    more = f" and {len(told) - 8} more" if len(told) > 8 else ""
    return f"no pictures with the numbers {', '.join(told[:8])}{more}" if told else ""
