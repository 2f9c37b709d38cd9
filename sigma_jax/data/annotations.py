"""What is known of a video beyond one class: the boundaries of its cycles, or when which labels apply.

Kept as JSON text in the video's record (schema.Record.annotation); `at` names the file and line it came from, for
messages.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sigma_jax.data.cycles import check_boundaries


@dataclass(frozen=True)
class Cycles:
    """Boundaries b_0 < ... < b_c of c cycles, frames counted from 0."""

    boundaries: tuple[int, ...]
    at: str = ""

    @property
    def count(self) -> int:
        return len(self.boundaries) - 1

    def check(self, num_frames: int) -> None:
        """Raises ValueError unless the cycles lie in a video of so many frames."""
        try:
            check_boundaries(np.asarray(self.boundaries), num_frames)
        except ValueError as error:
            raise ValueError(f"{self.at}: {error}") from error


@dataclass(frozen=True)
class Labels:
    """Several labels of one video.

    Attributes:
      spans: (class, first, last) of each label, both ends included.
      in_seconds: whether first and last are seconds; otherwise frames, counted from 0.
      at: file and line that the labels come from, for messages.
    """

    spans: tuple[tuple[int, float, float], ...]
    in_seconds: bool = False
    at: str = ""

    def check(self, num_frames: int) -> None:
        """Raises ValueError unless the labelled frames lie in a video of so many frames."""
        last = max((span[2] for span in self.spans), default=-1)
        if not self.in_seconds and last >= num_frames:
            raise ValueError(
                f"{self.at}: the video is shorter than its annotation: {num_frames} frames, the last label is at "
                f"frame {last:g}, counted from 0"
            )

    def between(self, first: int, last: int, num_classes: int, fps: float = 0.0) -> np.ndarray:
        """Multi-hot vector, uint8 [num_classes], of the classes with a label at some frame of first .. last.

        Raises:
          ValueError: a class outside the label map, or labels in seconds and no frame rate.
        """
        wrong = sorted({span[0] for span in self.spans if not 0 <= span[0] < num_classes})
        if wrong:
            raise ValueError(f"{self.at}: labels {wrong} are not in the label map, expected 0..{num_classes - 1}")
        if self.in_seconds and fps <= 0:
            raise ValueError(f"{self.at}: labels are in seconds, but the frame rate of the video is not known")
        scale = fps if self.in_seconds else 1.0
        found = np.zeros(num_classes, np.uint8)
        found[[span[0] for span in self.spans if span[1] * scale <= last and span[2] * scale >= first]] = 1
        return found

    def of_video(self, num_classes: int) -> np.ndarray:
        """Multi-hot vector, uint8 [num_classes], of the classes that the video has at any time."""
        spans = tuple((span[0], 0, 0) for span in self.spans)
        return Labels(spans, at=self.at).between(0, 0, num_classes)

    def in_frames(self, times: Sequence[float]) -> "Labels":
        """These labels in frames instead of seconds, also for videos with a variable frame rate.

        A frame belongs to the labels of the moment at which it appears.

        Args:
          times: seconds at which each frame is shown (decode.VideoInfo.times).
        """
        if not self.in_seconds or not np.isfinite(times).all() or not len(times):
            return self
        spans = tuple(
            (label, int(np.searchsorted(times, first, "left")), int(np.searchsorted(times, last, "right")) - 1)
            for label, first, last in self.spans
        )
        return Labels(spans, at=self.at)


Annotation: TypeAlias = Cycles | Labels
_KINDS = {"cycles": Cycles, "labels": Labels}


def encode(annotation: Annotation) -> str:
    """As JSON, one line."""
    kind = next(name for name, known in _KINDS.items() if isinstance(annotation, known))
    return json.dumps({"kind": kind, **vars(annotation)}, separators=(",", ":"))


def decode(text: str) -> Annotation:
    """Inverse of encode; raises ValueError where the text is not an annotation."""
    try:
        content = json.loads(text)
        kind = _KINDS[content.pop("kind")]
        name = "boundaries" if kind is Cycles else "spans"
        content[name] = tuple(tuple(item) if isinstance(item, list) else item for item in content[name])
        return kind(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no annotation: {text[:80]!r} ({type(error).__name__}: {error})") from error


def spans_of_frames(frames: list[list[int]]) -> tuple[tuple[int, int, int], ...]:
    """Spans (class, first, last) of consecutive frames with the same label, sorted, from the labels of every frame."""
    spans, open_since = [], {}
    for number, labels in enumerate([*frames, []]):
        for label in [label for label in open_since if label not in labels]:
            spans.append((label, open_since.pop(label), number - 1))
        for label in labels:
            open_since.setdefault(label, number)
    return tuple(sorted(spans))
