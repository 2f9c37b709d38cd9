"""Sliding windows over long videos, decoded in one pass by threads.

A window is `num_frames` frames, `stride` apart; the next one begins `step` frames later, and the last one ends with the
video. A thread holds the pictures of one window (of overlapping windows, those of one span), and the windows that wait
to be used are limited in bytes. So time grows with the length of a video, and memory does not.

Letters: F frames of a window, s the side of its pictures.
"""

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sigma_jax.data import time_limit
from sigma_jax.data.augment import center_crop_resize
from sigma_jax.data.decode import count_packets, decode_frames, probe
from sigma_jax.data.pictures import BadVideo

_WAITING_BYTES = 2**28  # limit of the windows that wait to be used


@dataclass(frozen=True)
class WindowSpec:
    """The frames of a window.

    Attributes:
      num_frames: F.
      stride: distance of neighbouring frames of a window, in frames of the video.
      step: distance of the starts of neighbouring windows, in frames of the video.
      size: side of the pictures in pixels: the short side is resized to it, then the central square is cropped.
    """

    num_frames: int
    stride: int
    step: int
    size: int

    @property
    def span(self) -> int:
        """Frames from the first one of a window to its last one."""
        return (self.num_frames - 1) * self.stride + 1

    def starts(self, num_frames_in_video: int) -> list[int]:
        """First frames of all windows: every `step` frames, and one more that ends with the video if frames remain."""
        last = max(num_frames_in_video - self.span, 0)
        starts = list(range(0, last + 1, self.step))
        return starts + [last] * (starts[-1] < last)

    def frames(self, starts: Sequence[int], num_frames_in_video: int) -> np.ndarray:
        """Frame numbers int64 [windows F]; a video shorter than a window repeats its last frame."""
        frames = np.asarray(starts, np.int64)[:, None] + np.arange(self.num_frames) * self.stride
        return np.minimum(frames, num_frames_in_video - 1)


@dataclass(frozen=True)
class Window:
    """One window of a video."""

    video: int  # its number among the paths
    start: int  # first frame
    clip: np.ndarray  # uint8 [F s s 3]


@dataclass(frozen=True)
class End:
    """Follows the last window of a video. If two windows with the same start came, the later one is valid."""

    video: int
    starts: tuple[int, ...] = ()  # of the valid windows, in order
    frames: np.ndarray | None = None  # int64 [windows 2], first and last frame
    seconds: np.ndarray | None = None  # float64 [windows 2], when these are shown (decode.VideoInfo.times)
    error: Exception | None = None  # BadVideo or OSError: no window of the video is valid


def read_windows(paths: Sequence[Path], spec: WindowSpec, num_threads: int) -> Iterator[Window | End]:
    """Yields the windows of all videos, those of one video in order with an End after them; videos are interleaved.

    Threads read ahead until _WAITING_BYTES of windows wait to be used. They end with the iterator.
    """
    size = spec.num_frames * spec.size * spec.size * 3
    results = queue.Queue(max(_WAITING_BYTES // size, 1))
    videos = iter(list(enumerate(paths)))
    readers = [_Reader(videos, spec, results) for _ in range(min(num_threads, len(paths)))]
    for reader in readers:
        reader.start()
    try:
        ends = 0
        while ends < len(paths):
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            ends += isinstance(result, End)
            yield result
    finally:
        for reader in readers:
            time_limit.give_up(reader)


class _Reader(threading.Thread):
    """Reads videos from an iterator that all threads share (a list's iterator: its next() is atomic)."""

    def __init__(self, videos: Iterator[tuple[int, Path]], spec: WindowSpec, results: queue.Queue):
        super().__init__(daemon=True)  # a library call that does not return must not keep the process alive
        self.videos, self.spec, self.results = videos, spec, results

    def run(self) -> None:
        with contextlib.suppress(TimeoutError):  # given up
            try:
                for number, path in self.videos:
                    try:
                        end = self._read(number, path)
                    except (BadVideo, OSError) as error:
                        end = End(number, error=error)
                    self._hand_over(end)
            except BaseException as error:  # noqa: BLE001 - raised again by read_windows
                self._hand_over(error)

    def _read(self, number: int, path: Path) -> End:
        expected = count_packets(path)
        cutter = _Cutter(self.spec, expected)
        info = probe(path, lambda picture: self._hand_over_all(number, cutter.add(picture)), cutter.wanted)
        starts = self.spec.starts(info.num_frames)
        frames = self.spec.frames(starts, info.num_frames)
        for start, indices in zip(starts, frames, strict=True):
            if not np.array_equal(cutter.done.get(start), indices):  # the number of packets was not that of frames
                clip = center_crop_resize(decode_frames(path, indices, info.num_frames), self.spec.size)
                self._hand_over(Window(number, start, clip))
        ends = frames[:, [0, -1]]
        return End(number, tuple(starts), ends, np.asarray(info.times)[ends])

    def _hand_over_all(self, number: int, windows: Iterator[tuple[int, np.ndarray]]) -> None:
        for start, clip in windows:
            self._hand_over(Window(number, start, clip))

    def _hand_over(self, result: Window | End | BaseException) -> None:
        while True:
            time_limit.check()
            try:
                return self.results.put(result, timeout=0.2)
            except queue.Full:
                continue


class _Cutter:
    """Assembles windows of a video of `expected` frames from its wanted frames, which are added in order."""

    def __init__(self, spec: WindowSpec, expected: int):
        starts = spec.starts(max(expected, 1))
        self._size, self._pictures, self._next = spec.size, {}, 0
        self._windows = list(zip(starts, spec.frames(starts, max(expected, 1)), strict=True))
        self.wanted = np.zeros(max(expected, 1), bool)
        for _, frames in self._windows:
            self.wanted[frames] = True
        self._numbers = iter(np.flatnonzero(self.wanted).tolist())
        self.done: dict[int, np.ndarray] = {}  # start -> frames of the complete windows

    def add(self, picture: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(start, uint8 [F s s 3]) of the windows that this frame, uint8 [h w 3], completes."""
        number = next(self._numbers)
        self._pictures[number] = center_crop_resize(picture[None], self._size)[0]
        while self._next < len(self._windows) and self._windows[self._next][1][-1] <= number:
            start, frames = self._windows[self._next]
            yield start, np.stack([self._pictures[i] for i in frames.tolist()])
            self.done[start], self._next = frames, self._next + 1
            first = self._windows[self._next][0] if self._next < len(self._windows) else number + 1
            while self._pictures and next(iter(self._pictures)) < first:  # no later window needs this picture
                del self._pictures[next(iter(self._pictures))]
