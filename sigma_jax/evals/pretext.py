"""Pretext tasks about time, whose labels need no annotation: classify how a window of a real video was transformed.

A window is transformed in eight ways: forward or backward, at single or double speed, as filmed or mirrored. All eight
have the same content, so that features of appearance alone stay at chance (50 per cent). The task `order` is whether a
clip is played forward, `speed` at which of the two speeds, and `direction` whether its dominant motion goes to the
right; clips without a clear horizontal motion have no label for `direction`.

Features of different videos differ most in appearance, which the eight clips of a window share. So every task is
measured twice: on features as they are, and, as `... change`, on features minus their mean over the eight clips.

Letters: F frames of a clip, s its side in pixels, n clips.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from sigma_jax.data.augment import center_crop_resize
from sigma_jax.data.clips import decode_record
from sigma_jax.data.decode import BadVideo, probe
from sigma_jax.data.records import BadRecord
from sigma_jax.data.source import open_source
from sigma_jax.evals.features import Batch, extract
from sigma_jax.evals.frozen_features import Features, frozen_scores
from sigma_jax.evals.labellings import Labelling
from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.trees import Params

BACKWARD, FAST, RIGHT = 1, 2, 4  # bits of a clip's stored label
CHANGES = tuple((backward, fast, mirrored) for backward in (0, 1) for fast in (0, 1) for mirrored in (0, 1))


@dataclass(frozen=True)
class PretextSpec:
    """The windows that are taken from videos.

    Attributes:
      num_frames, frame_stride, image_size: of a clip, as the encoder was trained.
      windows: of one video, equally spaced; fewer if they would overlap.
      min_flow: smallest mean horizontal motion of a clip with a `direction`, in pixels (at image_size) from one frame
        of the clip to the next.
    """

    num_frames: int
    frame_stride: int
    image_size: int
    windows: int = 8
    min_flow: float = 0.15

    @property
    def span(self) -> int:
        """Frames of the video in one window, those of a clip at double speed."""
        return 2 * self.num_frames * self.frame_stride


class PretextClips(NamedTuple):
    """The eight clips of every window of a split.

    Attributes:
      video: uint8 [n F s s 3].
      label: int32 [n], with the bits BACKWARD, FAST, RIGHT.
      has_direction: bool [n], whether RIGHT is known.
      num_videos: number of videos with windows.
      too_short, unreadable: names of the videos without windows.
    """

    video: np.ndarray
    label: np.ndarray
    has_direction: np.ndarray
    num_videos: int
    too_short: list[str]
    unreadable: list[str]

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches as `evals.features.extract` takes them."""
        for start in range(0, len(self.label), size):
            rows = np.arange(start, min(start + size, len(self.label)))
            filled = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
            weight = (np.arange(size) < len(rows)).astype(np.float32)
            yield {"video": self.video[filled], "label": self.label[filled], "weight": weight}


def _bit(bit: int) -> Labelling:
    return Labelling(lambda label: (label & bit > 0).astype(np.int32), 2)


LABELLINGS = {"order": _bit(BACKWARD), "speed": _bit(FAST)}
DIRECTED = {"direction": _bit(RIGHT)}


CHANGE = " change"  # ends the names of what is measured without the mean over a window
MIN_VIDEOS = 4  # an accuracy on fewer videos means nothing


@dataclass(frozen=True)
class PretextScores:
    """Evaluator of frozen features: top-1, in per cent, of k-NN and of logistic regression; chance is 50.

    It yields `knn/order`, `linear/order` and so on, and `knn/order change` as the module's docstring says.

    Attributes:
      features: function of parameters and video uint8 [B F s s 3] that returns [B D].
      bank, own: clips that are learned from, and clips that are classified.
      batch_size: clips at a time.
      k: neighbours that vote.
      name, every, best_by: see evals/protocol.py.
    """

    features: Features
    bank: PretextClips
    own: PretextClips
    batch_size: int = 64
    k: int = 20
    name: str = "pretext"
    every: Duration | None = None
    best_by: str | None = None

    def run(self, params: Params, step: int = 0) -> Iterator[tuple[str, float]]:
        parts = self.bank, self.own
        found = [extract(partial(self.features, params), part.batches(self.batch_size))[0] for part in parts]
        every, directed = [slice(None)] * 2, [part.has_direction for part in parts]
        for ending, features in (("", found), (CHANGE, list(map(without_mean, found)))):
            for wanted, labellings in ((every, LABELLINGS), (directed, DIRECTED)):
                train, test = (
                    (rows[chosen], part.label[chosen])
                    for rows, part, chosen in zip(features, parts, wanted, strict=True)
                )
                for name, value in frozen_scores(train, test, labellings, k=self.k):
                    yield f"{name}{ending}", value


def without_mean(features: np.ndarray) -> np.ndarray:
    """Features [n D] of clips as `pretext_clips` orders them, minus their mean over the eight clips of a window."""
    windows = features.reshape(-1, len(CHANGES), features.shape[-1])
    return (windows - windows.mean(axis=1, keepdims=True)).reshape(features.shape)


def flow_features(params: Params, video: np.ndarray) -> np.ndarray:
    """Features without a network, float32 [B 2]: mean horizontal optical flow of a clip, and its size."""
    flows = np.array([horizontal_flow(clip) for clip in video], np.float32)
    return np.stack([flows, np.abs(flows)], axis=1)


def pretext_clips(data_dir: str | Path, split: str, spec: PretextSpec, part: tuple[int, int] = (0, 1)) -> PretextClips:
    """Cuts the windows of the videos of a split.

    Args:
      data_dir, split: the data.
      spec: the windows.
      part: (remainder, divisor): only records whose number has this remainder.

    Raises:
      InvalidValue: fewer than MIN_VIDEOS videos are long enough.
      DataSetError: no such split.
    """
    source = open_source(data_dir, split)
    clips, labels, directed, too_short, unreadable = [], [], [], [], []
    num_videos = 0
    for index in range(part[0], len(source), part[1]):
        try:
            windows = _windows(source[index], spec)
        except (BadRecord, BadVideo):
            unreadable.append(source.describe(index)[0] + f" record {source.describe(index)[1]}")
            continue
        if not windows:
            too_short.append(source[index].key)
            continue
        num_videos += 1
        for window in windows:
            flows = [horizontal_flow(changed(window, 0, fast, 0)) for fast in (0, 1)]
            for change in CHANGES:
                clips.append(changed(window, *change))
                labels.append(_label(change, flows))
                directed.append(abs(flows[change[1]]) >= spec.min_flow)
    if num_videos < MIN_VIDEOS:
        raise InvalidValue(
            f"{data_dir}, split {split!r}: {num_videos} videos have the {spec.span} frames that a window needs "
            f"({len(too_short)} are shorter, {len(unreadable)} unreadable), expected at least {MIN_VIDEOS}"
        )
    arrays = np.stack(clips), np.array(labels, np.int32), np.array(directed)
    return PretextClips(*arrays, num_videos, too_short, unreadable)


def _label(change: tuple[int, int, int], flows: Sequence[float]) -> int:
    """The label of a transformed window; `flows` are those of the original at single and at double speed."""
    backward, fast, mirrored = change
    is_right = (flows[fast] > 0) ^ bool(backward) ^ bool(mirrored)
    return BACKWARD * backward + FAST * fast + RIGHT * is_right


def _windows(record, spec: PretextSpec) -> list[np.ndarray]:
    """The windows uint8 [2F s s 3] of a record; a clip at single speed is the first F frames of one."""
    num_frames = record.num_frames or len(record.frames) or probe(record.video).num_frames
    room = num_frames - spec.span
    if room < 0:
        return []
    count = min(spec.windows, num_frames // spec.span)
    starts = np.linspace(0, room, count + 2)[1:-1].round().astype(int)
    steps = np.arange(2 * spec.num_frames) * spec.frame_stride
    frames = decode_record(record, np.concatenate([start + steps for start in starts]), num_frames)
    small = center_crop_resize(frames, spec.image_size)
    return list(small.reshape(count, 2 * spec.num_frames, *small.shape[1:]))


def changed(window: np.ndarray, backward: int, fast: int, mirrored: int) -> np.ndarray:
    """A clip [F s s 3] of a window [2F s s 3]: every frame of its first half, or every second of all."""
    clip = window[::2] if fast else window[: len(window) // 2]
    clip = clip[::-1] if backward else clip
    return clip[:, :, ::-1] if mirrored else clip


def horizontal_flow(clip: np.ndarray) -> float:
    """Mean horizontal optical flow of a clip [F s s 3] in pixels per frame, positive to the right (Farneback 2003).

    Pixels are weighted by the length of their flow, so that a small moving object before a still background counts.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    total = weight = 0.0
    for before, after in zip(grey, grey[1:], strict=False):
        flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 2, 9, 3, 5, 1.1, 0)
        length = np.linalg.norm(flow, axis=-1)
        total += float((flow[..., 0] * length).sum())
        weight += float(length.sum())
    return total / weight if weight else 0.0
