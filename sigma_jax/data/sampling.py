"""Which frames of a video make a clip. Frame numbers count from 0 in order of presentation.

Letters: N frames in the video, F frames in the clip.
"""

import numpy as np


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
    num_steps = max(num_frames_in_video - 2, 0) // stride  # steps that stay inside
    return np.minimum(steps, num_steps * stride)


def center_indices(num_frames_in_video: int, num_frames: int, stride: int) -> np.ndarray:
    """Frame numbers int64 [F] of the clip in the middle of the video; a shorter video repeats its last frame."""
    check_clip(num_frames_in_video, num_frames, stride)
    start = max(num_frames_in_video - ((num_frames - 1) * stride + 1), 0) // 2
    return np.minimum(start + np.arange(num_frames) * stride, num_frames_in_video - 1)


def check_clip(num_frames_in_video: int, num_frames: int, stride: int) -> None:
    """Raises ValueError unless all three are at least 1."""
    if min(num_frames_in_video, num_frames, stride) < 1:
        raise ValueError(
            f"expected at least one frame, stride and video frame; got num_frames={num_frames}, stride={stride} "
            f"for a video of {num_frames_in_video} frames"
        )
