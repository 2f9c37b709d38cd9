"""Which frames of a video make a clip. Frame numbers count from 0 in order of presentation.

Letters: N frames in the video, F frames in the clip.
"""

from dataclasses import dataclass

import numpy as np

from sigma_jax.runtime.errors import InvalidValue


def pretrain_indices(num_frames_in_video: int, num_frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """Frame numbers int64 [F] of one random clip, as in the published pre-training code.

    The span is F * stride frames. Where N >= span the clip starts uniformly in [0, N - span] and takes every stride-th
    frame. A shorter video is taken from its start, stepping while (number from 1) + stride < N, and then repeats the
    frame it has reached.
    """
    check_clip(num_frames_in_video, num_frames, stride)
    steps = np.arange(num_frames) * stride
    room = num_frames_in_video - num_frames * stride
    if room >= 0:
        return rng.integers(room + 1) + steps
    num_steps = max(num_frames_in_video - 2, 0) // stride  # steps inside the video, by the rule of the docstring
    return np.minimum(steps, num_steps * stride)


def center_indices(num_frames_in_video: int, num_frames: int, stride: int) -> np.ndarray:
    """Frame numbers int64 [F] of the clip in the middle of the video; a shorter video repeats its last frame."""
    check_clip(num_frames_in_video, num_frames, stride)
    start = max(num_frames_in_video - ((num_frames - 1) * stride + 1), 0) // 2
    return np.minimum(start + np.arange(num_frames) * stride, num_frames_in_video - 1)


def check_clip(num_frames_in_video: int, num_frames: int, stride: int) -> None:
    """Raises ValueError unless all three are at least 1."""
    if min(num_frames_in_video, num_frames, stride) < 1:
        raise InvalidValue(
            f"expected at least one frame, stride and video frame; got num_frames={num_frames}, stride={stride} "
            f"for a video of {num_frames_in_video} frames"
        )


SAMPLINGS = ("dense", "uniform", "window", "tiled")


@dataclass(frozen=True)
class FrameSampling:
    """Frames for training and testing a classifier, as in the published finetuning code.

    Attributes:
      kind: one of SAMPLINGS. 'dense' (Kinetics): from a window of num_frames * stride frames. 'uniform'
        (Something-Something): one from each of num_frames segments of equal length; stride is not used. 'window'
        (Charades): exactly stride frames apart; a video shorter than the window lies anywhere in it, and its first and
        last frame are repeated. 'tiled' (SEVERE's action recognition): as 'window', but a shorter video is repeated
        from its start.
      num_frames: F.
      stride: distance of neighbouring frames, in frames of the video.
    """

    kind: str
    num_frames: int
    stride: int = 1

    def __post_init__(self):
        if self.kind not in SAMPLINGS:
            raise InvalidValue(f"frame sampling {self.kind!r} is unknown, expected one of {', '.join(SAMPLINGS)}")

    def train(self, num_frames_in_video: int, rng: np.random.Generator) -> np.ndarray:
        """Random frame numbers int64 [F]."""
        check_clip(num_frames_in_video, self.num_frames, self.stride)
        if self.kind == "uniform":
            return _uniform_train(num_frames_in_video, self.num_frames, rng)
        if self.kind in ("window", "tiled"):
            room = num_frames_in_video - self.window
            start = rng.integers(min(room, 0), max(room, 0) + 1)
            return self._fit(num_frames_in_video, max(start, 0) if self.kind == "tiled" else start)
        span = self.num_frames * self.stride
        if num_frames_in_video > span:
            return dense_window(int(rng.integers(span, num_frames_in_video)), span, self.num_frames)
        spread = np.linspace(0, num_frames_in_video, num_frames_in_video // self.stride)
        filled = np.full(self.num_frames, num_frames_in_video, np.float64)
        filled[: len(spread)] = spread
        return np.clip(filled, 0, num_frames_in_video - 1).astype(np.int64)

    def view(self, num_frames_in_video: int, view: int, num_views: int) -> np.ndarray:
        """Frame numbers int64 [F] of temporal test view `view` of `num_views`; the views of short videos are equal.

        A single view is the middle of the video, which is our choice: the published code always takes several views.
        """
        check_clip(num_frames_in_video, self.num_frames, self.stride)
        if not 0 <= view < num_views:
            raise ValueError(f"view {view} of {num_views}: expected 0..{num_views - 1}")
        if self.kind == "uniform":
            return _uniform_view(num_frames_in_video, self.num_frames, view, num_views)
        if self.kind in ("window", "tiled"):
            return self._fit(num_frames_in_video, self._view_start(num_frames_in_video, view, num_views))
        if num_views == 1:
            return center_indices(num_frames_in_video, self.num_frames, self.stride)
        every = np.arange(0, num_frames_in_video, self.stride)
        every = np.pad(every, (0, max(self.num_frames - len(every), 0)), mode="edge")
        start = int(view * (len(every) - self.num_frames) / (num_views - 1))
        return every[start : start + self.num_frames]

    @property
    def window(self) -> int:
        """Length of a clip in frames of the video, from its first to its last frame, both included."""
        return (self.num_frames - 1) * self.stride + 1

    def _view_start(self, num_frames_in_video: int, view: int, num_views: int) -> int:
        room = max(num_frames_in_video - self.window, 0)
        place = room / 2 if num_views == 1 else view * room / (num_views - 1)
        return round(place) if self.kind == "window" else int(place)  # both as in the published code

    def _fit(self, num_frames_in_video: int, start: int) -> np.ndarray:
        """Frames from `start` on; outside the video its first or last frame is repeated, or (tiled) the whole video."""
        frames = start + np.arange(self.num_frames) * self.stride
        if self.kind == "tiled":
            return frames % num_frames_in_video
        return np.clip(frames, 0, num_frames_in_video - 1)


def dense_window(end: int, span: int, num_frames: int) -> np.ndarray:
    """Frame numbers int64 [F]: equally spaced points from end - span to end, rounded down and clipped below `end`.

    As in the published code the points span `span` frames and not span - stride, so that they are span / (F - 1) apart.
    """
    start = end - span
    return np.clip(np.floor(np.linspace(start, end, num_frames)), start, end - 1).astype(np.int64)


def _uniform_train(num_frames_in_video: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """One random frame per segment; a video shorter than F is spread evenly (the authors' code repeats frame 0)."""
    length = num_frames_in_video // num_frames
    if length:
        return np.arange(num_frames) * length + rng.integers(length, size=num_frames)
    return np.arange(num_frames) * num_frames_in_video // num_frames


def _uniform_view(num_frames_in_video: int, num_frames: int, view: int, num_views: int) -> np.ndarray:
    """Frames of view v: the start of the v-th of `num_views` equal parts of every segment; of one view, its middle."""
    segment = num_frames_in_video / num_frames
    offset = segment / 2 if num_views == 1 else segment * view / num_views
    return np.floor(offset + np.arange(num_frames) * segment + 1e-9).astype(np.int64)
