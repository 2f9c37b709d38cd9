"""Clips of repeated motion: all frames of an interval with the positions of its cycles and initial windows.

The label of a clip is one row of integers, which `CyclesSpec.unpack` splits into its parts.

Letters: B clips, T frames of the longest clip (shorter ones are padded), n initial windows.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from sigma_jax.data import annotations, cycles, records, schema
from sigma_jax.data.clips import Clip, ClipReader
from sigma_jax.data.decode import BadVideo
from sigma_jax.data.decoders import Decoding
from sigma_jax.data.finetune_augment import resize
from sigma_jax.data.source import Source
from sigma_jax.ops.repetition_windows import IGNORED

Array: TypeAlias = np.ndarray | jax.Array


class CycleLabels(NamedTuple):
    """Labels of B clips.

    Attributes:
      offsets: [B 2 T], frames from each frame to the same phase of the next and of the previous cycle
        (cycles.phase_offsets); IGNORED where unknown.
      windows: [B n 3], initial windows (ops/repetition_windows.py).
      length: [B], frames of the clip before padding.
      count: [B], number of cycles.
    """

    offsets: Array
    windows: Array
    length: Array
    count: Array


@dataclass(frozen=True)
class CyclesSpec:
    """Clips of videos whose cycles are annotated.

    Attributes:
      max_frames: T.
      image_size: side of the clip, pixels.
      num_windows: initial windows of a training clip, 0 in tests.
      flip: probability that a training clip is mirrored.
      seed: of the intervals, which are drawn once for each video.
    """

    max_frames: int
    image_size: int
    num_windows: int = 0
    flip: float = 0.5
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.max_frames, self.image_size, self.image_size, 3

    @property
    def label_shape(self) -> tuple[int, ...]:
        return (2 * self.max_frames + 3 * self.num_windows + 2,)

    @property
    def is_random(self) -> bool:
        return False

    @property
    def num_test_views(self) -> int:
        return 1

    def make_reader(self, source: Source, cache_decoded: bool, decoding: Decoding) -> "CyclesReader":
        """A reader of such clips."""
        return CyclesReader(source, self, cache_decoded, decoding)

    def unpack(self, label: Array) -> CycleLabels:
        """Splits labels [B L] into their parts."""
        rows, after = len(label), 2 * self.max_frames
        offsets, windows = label[:, :after], label[:, after:-2]
        return CycleLabels(
            offsets.reshape(rows, 2, self.max_frames),
            windows.reshape(rows, self.num_windows, 3),
            label[:, -2],
            label[:, -1],
        )


class CyclesReader(ClipReader):
    """Reads an interval of a video for training (with rng), or the whole annotated part of it for tests."""

    def read(self, index: int, rng: np.random.Generator | None, number: int = 0) -> Clip:
        """Reads one of the ten intervals that are drawn once for each video, or (without rng) all its cycles.

        Raises:
          BadRecord, BadVideo: the record or its video cannot be read.
          DataSetError: the record has no cycles, or more frames than `max_frames`.
        """
        record, num_frames, decoded = self._load(index)
        bounds = np.asarray(find_cycles(record, self.source).boundaries)
        if bounds[-1] >= num_frames:
            raise BadVideo(f"the video is shorter than its annotation: {num_frames} frames, cycles end at {bounds[-1]}")
        interval = cycles.Interval(int(bounds[0]), int(bounds[-1]), len(bounds) - 1)
        if rng is not None:
            own = np.random.default_rng((self.spec.seed, index, int(rng.integers(cycles.NUM_INTERVALS))))
            interval = cycles.draw_interval(bounds, own)
        if interval.length > self.spec.max_frames:
            raise records.DataSetError(
                f"{record.key}: {interval.length} annotated frames, the clips have at most {self.spec.max_frames}"
            )
        frames = np.arange(interval.first, interval.last + 1)
        video = decoded[frames] if decoded is not None else self.decode(index, record, frames, num_frames)
        video = fit_square(video, self.spec.image_size)
        if rng is not None and rng.random() < self.spec.flip:
            video = video[:, :, ::-1]
        clip = np.zeros(self.spec.shape, np.uint8)
        clip[: len(video)] = video
        return Clip(clip, self._label(bounds, interval, rng), record.key)

    def _label(self, bounds: np.ndarray, interval: cycles.Interval, rng: np.random.Generator | None) -> np.ndarray:
        offsets = np.full((2, self.spec.max_frames), IGNORED, np.int32)
        start = interval.first - bounds[0]
        for row, values in enumerate(cycles.phase_offsets(bounds)):
            offsets[row, : interval.length] = values[start : start + interval.length]
        windows = [cycles.draw_window(interval, int(offsets[0, 0]), rng) for _ in range(self.spec.num_windows)]
        windows = np.asarray(windows, np.int32).ravel()
        return np.concatenate([offsets.ravel(), windows, [interval.length, interval.count]]).astype(np.int32)


def find_cycles(record: schema.Record, source: Source) -> annotations.Cycles:
    """The cycles of a record; DataSetError where it has none."""
    try:
        found = annotations.decode(record.annotation)
        if isinstance(found, annotations.Cycles):
            return found
        reason = "its annotation is of another kind"
    except ValueError as error:
        reason = str(error)
    raise records.DataSetError(
        f"{record.key}: {reason}. Every video of {source.data_dir} needs cycles: prepare it with --format=ucfrep"
    )


def longest_clip(source: Source) -> int:
    """Frames of the longest annotated part of a split."""
    longest = 0
    for index in range(len(source)):
        try:
            bounds = find_cycles(source[index], source).boundaries
        except records.BadRecord:
            continue  # named when it is read
        longest = max(longest, bounds[-1] - bounds[0] + 1)
    return longest


def fit_square(video: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 [F h w 3] so that its longer side is `size`, and pads it with black to [F size size 3]."""
    height, width = video.shape[1:3]
    longer = max(height, width)
    height, width = (max(round(side * size / longer), 1) for side in (height, width))
    small = resize(video, height, width)
    square = np.zeros((len(video), size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[:, top : top + height, left : left + width] = small
    return square
