"""The frames of a sequence that are measured, and how they and their masks are resized (input of TimeT).

Images are resized with Pillow's bilinear filter (whose support grows with the factor) without keeping the aspect ratio,
masks by the nearest pixel. The resizing of `data/augment.py` gives pixels that differ by up to 50 grey levels.

Letters: F frames, y x pixels.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sigma_jax.data.pictures import BadVideo, open_image
from sigma_jax.evals.segmentation.layouts import BadSequence, Note, Sequence
from sigma_jax.runtime.errors import InvalidValue

MEAN = np.array((0.485, 0.456, 0.406))
STD_TIMET = np.array((0.228, 0.224, 0.225))  # of TimeT's public code; models were trained with 0.229
VOID = 255  # an unlabelled pixel
DRAWS = ("random", "linspace")
VOIDS = ("class", "background", "ignore")
CATEGORIES = ("lookup", "timet")


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """Frames to be measured.

    Attributes:
      name: of the sequence.
      video: uint8 [F y x 3].
      labels: int16 [F y x]; -1 for pixels that are not measured.
      frame_numbers: int [F], positions in the sequence.
      notes: on unusual properties.
    """

    name: str
    video: np.ndarray
    labels: np.ndarray
    frame_numbers: np.ndarray
    notes: tuple[Note, ...] = ()

    @property
    def num_objects(self) -> int:
        """Number of distinct labels, background included, without pixels that are not measured."""
        return len(np.unique(self.labels[self.labels >= 0]))


def draw_frames(name: str, num_available: int, num_frames: int, draw: str = "random", seed: int = 0) -> np.ndarray:
    """Ascending positions int64 [F] of the frames to be measured.

    Args:
      name: of the sequence, which seeds its own draw.
      num_available: frames of the sequence.
      num_frames: F.
      draw: 'random' (published; without replacement unless there are too few frames) or 'linspace' (equally spaced, the
        first and the last included).
      seed: of the draw.
    """
    if draw not in DRAWS:
        raise InvalidValue(f"draw={draw!r}: expected one of {', '.join(DRAWS)}")
    if draw == "linspace":
        return np.round(np.linspace(0, num_available - 1, num_frames)).astype(np.int64)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return np.sort(rng.choice(num_available, num_frames, replace=num_available < num_frames))


def read_frame(path: Path) -> np.ndarray:
    """uint8 [y x 3].

    Raises:
      BadSequence: it cannot be decoded.
    """
    return np.asarray(_open(path).convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """Object numbers of a palette or grey image, uint8 [y x]; 255 is void.

    Raises:
      BadSequence: the mask has colours, or black and white, instead of numbers, or cannot be decoded.
    """
    image = _open(path)
    if image.mode not in ("P", "L", "1"):
        raise BadSequence(
            "colour mask", f"{path} is an image of mode {image.mode}; expected a palette or grey PNG of object numbers"
        )
    mask = np.asarray(image).astype(np.uint8)
    if image.mode == "L" and mask.max(initial=0) == VOID and not ((mask > 0) & (mask < VOID)).any():
        raise BadSequence(
            "black and white mask",
            f"{path} holds 0 and 255 alone (DAVIS 2016?); expected object numbers 0, 1, 2 ..., where 255 is void",
        )
    return mask


def _open(path: Path) -> Image.Image:
    try:
        with open(path, "rb") as file:
            return open_image(file)
    except (BadVideo, OSError) as error:
        raise BadSequence("unreadable file", f"{path} cannot be read ({error})") from error


def resize_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [y x 3] -> uint8 of `size` (rows, columns), Pillow's bilinear."""
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [y x] -> uint8 of `size` (rows, columns), Pillow's nearest."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def map_instances(mask: np.ndarray, categories: Mapping[int, int], how: str = "lookup") -> np.ndarray:
    """Replaces instance numbers in a mask by classes; numbers without an entry stay.

    Args:
      mask: uint8 [y x].
      categories: class by instance number.
      how: 'lookup', or 'timet': the published code replaces numbers one after the other, and so also replaces a class
        that equals a later instance number.
    """
    if how not in CATEGORIES:
        raise InvalidValue(f"categories={how!r}: expected one of {', '.join(CATEGORIES)}")
    mapped = mask.copy()
    for instance, category in categories.items():
        mapped[(mask if how == "lookup" else mapped) == instance] = category
    return mapped


def read_clip(
    sequence: Sequence,
    frame_numbers: np.ndarray,
    size: tuple[int, int],
    *,
    void: str = "class",
    categories: str = "lookup",
) -> Clip:
    """The chosen frames, resized, with the labels of their masks.

    Args:
      sequence: the sequence.
      frame_numbers: int [F], positions in it.
      size: (rows, columns) of the clip.
      void: how 255 is treated: as a 'class' of its own (published), as 'background', or 'ignore'.
      categories: how instances are mapped to classes (`map_instances`), for sets that have classes.

    Raises:
      BadSequence: a file cannot be used; the message names it.
    """
    if void not in VOIDS:
        raise InvalidValue(f"void={void!r}: expected one of {', '.join(VOIDS)}")
    video, labels, notes = [], [], list(sequence.notes)
    in_full, in_small, with_void = set(), set(), []
    for number in frame_numbers:
        frame, mask = read_frame(sequence.frames[number]), read_mask(sequence.masks[number])
        if frame.shape[:2] != mask.shape:
            raise BadSequence(
                "mask of another size", f"{sequence.masks[number]} is {mask.shape}, its frame {frame.shape[:2]}"
            )
        small = resize_mask(mask, size)
        present = set(np.unique(mask).tolist())
        if VOID in present:
            with_void.append(sequence.masks[number])
        in_full |= present - {VOID}
        in_small |= set(np.unique(small).tolist()) - {VOID}
        video.append(resize_frame(frame, size))
        labels.append(_labels(sequence, number, small, void, categories))
    notes += _notes(sequence, frame_numbers, in_full - in_small, with_void, void)
    clip = Clip(sequence.name, np.stack(video), np.stack(labels), np.asarray(frame_numbers))
    if not in_small:
        raise BadSequence("void only", f"{with_void[0]} and the other chosen masks of {clip.name} are void throughout")
    if in_small == {0}:
        notes.append(Note(clip.name, "background only", f"{clip.name}: the chosen frames show no object"))
    return dataclasses.replace(clip, notes=tuple(notes))


def _labels(sequence: Sequence, number: int, small: np.ndarray, void: str, categories: str) -> np.ndarray:
    """int16 [y x] of one resized mask."""
    labels = small
    if sequence.categories is not None:
        unknown = set(np.unique(small).tolist()) - set(sequence.categories) - {0, VOID}
        if unknown:
            raise BadSequence(
                "not in meta.json",
                f"{sequence.masks[number]} shows object {min(unknown)}, which meta.json does not list",
            )
        labels = map_instances(small, sequence.categories, categories)
    labels = labels.astype(np.int16)
    if void != "class":
        labels[small == VOID] = 0 if void == "background" else -1
    return labels


def _notes(sequence: Sequence, frame_numbers: np.ndarray, vanished: set[int], with_void: list, void: str) -> list[Note]:
    notes = []
    if len(np.unique(frame_numbers)) < len(frame_numbers):
        sentence = (
            f"{sequence.name}: {len(sequence.frames)} frames, fewer than {len(frame_numbers)}: some are shown twice"
        )
        notes.append(Note(sequence.name, "fewer frames than asked", sentence))
    for number in sorted(vanished):
        sentence = (
            f"{sequence.name}: object {number} vanishes when {sequence.masks[frame_numbers[0]].parent} is resized"
        )
        notes.append(Note(sequence.name, "object vanished", sentence))
    if with_void:
        others = len(set(with_void)) - 1
        sentence = f"{with_void[0]} and {others} other masks have void pixels (255), treated as: {void}"
        notes.append(Note(sequence.name, "void", sentence))
    return notes
