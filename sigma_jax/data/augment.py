"""Crops and resizing on the host: uint8 in, uint8 out; the device normalises.

Boxes are (top, left, height, width) in pixels. One box serves all frames of a clip.
"""

import cv2
import numpy as np
from PIL import Image

cv2.setNumThreads(0)  # parallelism belongs to the pipeline: one clip, one thread

SCALES = (1.0, 0.875, 0.75, 0.66)
# The 13 fixed positions of a crop, (x, y) in quarters of the space around it.
POSITIONS = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)

# By downscaling factor (source pixels per output pixel), the side taps of the blur [tap, 1 - 2 tap, tap] that bring
# OpenCV's result closest to Pillow's. Below the first factor the blur would lower the error by a tenth only and double
# the time.
_BLUR_SCALES = (1.15, 1.25, 1.34, 1.5, 1.75, 2.0)
_BLUR_TAPS = (0.04, 0.06, 0.09, 0.13, 0.19, 0.25)


def multi_scale_crop_box(height: int, width: int, size: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Random box of the multi-scale crop (published pre-training code).

    Sides come from int(short side * s), s in SCALES, a side within 2 pixels of `size` counting as `size` (but never
    beyond the frame); height and width from all pairs at most one scale apart; the place from 13 fixed positions.
    """
    sides = [int(min(height, width) * scale) for scale in SCALES]
    sides = [size if abs(side - size) <= 2 else side for side in sides]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[rng.integers(len(pairs))]
    h, w = min(h, height), min(w, width)
    x, y = POSITIONS[rng.integers(len(POSITIONS))]
    return y * ((height - h) // 4), x * ((width - w) // 4), h, w


def center_crop_resize(video: np.ndarray, size: int) -> np.ndarray:
    """Evaluation view of uint8 [F h w 3]: short side resized to `size`, then the central crop [F size size 3]."""
    height, width = video.shape[1:3]
    short = min(height, width)
    video = resize(video, max(size, height * size // short), max(size, width * size // short))
    top, left = (video.shape[1] - size) // 2, (video.shape[2] - size) // 2
    return video[:, top : top + size, left : left + size]


def resize(video: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resize of uint8 [F h w 3] to [F height width 3], equal to Pillow's as in the authors' code.

    Pillow does it where an axis shrinks. Enlarging needs no antialiasing: there OpenCV's bilinear filter is five times
    faster and within one grey level of Pillow's, on average within 0.25 (tested).
    """
    if video.shape[1:3] == (height, width):
        return np.ascontiguousarray(video)
    resized = np.empty((len(video), height, width, 3), np.uint8)
    shrinks = height < video.shape[1] or width < video.shape[2]
    for i, frame in enumerate(video):
        if shrinks:
            image = Image.fromarray(np.ascontiguousarray(frame))
            resized[i] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        else:
            cv2.resize(frame, (width, height), dst=resized[i], interpolation=cv2.INTER_LINEAR)
    return resized


def resize_fast(video: np.ndarray, height: int, width: int) -> np.ndarray:
    """Approximates `resize` in a quarter of its time where an axis shrinks, on average within 0.6 grey levels (tested).

    Pillow's filter widens with the downscaling factor. Here a small blur with fitted taps widens OpenCV's bilinear
    filter; beyond a factor of 2 Pillow does it.
    """
    scales = video.shape[1] / height, video.shape[2] / width
    if video.shape[1:3] == (height, width) or max(scales) > _BLUR_SCALES[-1]:
        return resize(video, height, width)
    taps = [np.interp(scale, _BLUR_SCALES, _BLUR_TAPS, left=0.0) for scale in scales]
    vertical, horizontal = (np.array([tap, 1 - 2 * tap, tap], np.float32) for tap in taps)
    resized = np.empty((len(video), height, width, 3), np.uint8)
    for frame, out in zip(video, resized, strict=True):
        if any(taps):
            frame = cv2.sepFilter2D(frame, -1, horizontal, vertical, borderType=cv2.BORDER_REPLICATE)
        cv2.resize(frame, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    return resized
