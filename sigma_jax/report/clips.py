"""Clips and the input of the encoder, with hidden tubes grey: a picture of their frames, and an animation.

Letters: B clips, F frames, y x pixels, (pt ph pw) tube size, N tubes of a clip in order time, row, column.
"""

from pathlib import Path

import numpy as np

from sigma_jax.report import style

CELL = 160  # px of a frame


def hide_tubes(video: np.ndarray, mask: np.ndarray, tube_size: tuple[int, int, int]) -> np.ndarray:
    """Paints the hidden tubes grey.

    Args:
        video: uint8 [B F y x 3].
        mask: bool [B N], True = hidden.
        tube_size: (pt, ph, pw) in frames and pixels.

    Returns:
        uint8 [B F y x 3], a copy.

    Raises:
        ValueError: clips that are no whole number of tubes, or a mask of another size or type.
    """
    t, h, w = style.grid_shape(video, tube_size)
    if mask.shape != (len(video), t * h * w) or mask.dtype != bool:
        raise ValueError(
            f"mask is {mask.dtype} {mask.shape}; expected bool ({len(video)}, {t * h * w}): {t}x{h}x{w} tubes per clip"
        )
    is_hidden = mask.reshape(len(video), t, h, w)
    for axis, size in enumerate(tube_size, start=1):
        is_hidden = is_hidden.repeat(size, axis=axis)
    return np.where(is_hidden[..., None], np.uint8(style.HIDDEN), video)


def write_clips(
    path: Path,
    video: np.ndarray,
    mask: np.ndarray,
    tube_size: tuple[int, int, int],
    *,
    max_clips: int = 4,
    max_frames: int = 8,
) -> Path:
    """Writes a PNG with two rows per clip: its frames, and the same frames with hidden tubes grey.

    Arguments and errors as in `hide_tubes`; the first `max_clips` clips, `max_frames` frames evenly spread.
    """
    visible = hide_tubes(video, mask, tube_size)
    num_frames = video.shape[1]
    columns = min(num_frames, max_frames)
    frames = np.arange(columns) * num_frames // columns
    clips = min(len(video), max_clips)
    width, height = style.fit(video[0, 0], CELL).size
    title, row = 2 * style.TEXT, height + style.GAP
    block = title + 2 * row + style.MARGIN
    picture, pen = style.canvas(
        2 * style.MARGIN + columns * (width + style.GAP) - style.GAP,
        2 * style.MARGIN + clips * block - style.MARGIN - style.GAP,
    )
    for clip in range(clips):
        top = style.MARGIN + clip * block
        end = style.write(pen, (style.MARGIN, top + style.TEXT), f"Clip {clip + 1}")
        style.write(
            pen,
            (end + style.TEXT, top + style.TEXT),
            color=style.MUTED,
            text=f"{(~mask[clip]).sum()} of {mask.shape[1]} tubes visible",
        )
        for column, frame in enumerate(frames):
            left = style.MARGIN + column * (width + style.GAP)
            picture.paste(style.fit(video[clip, frame], CELL), (left, top + title))
            picture.paste(style.fit(visible[clip, frame], CELL), (left, top + title + row))
    picture.save(path)
    return path


def write_animation(
    path: Path, video: np.ndarray, mask: np.ndarray, tube_size: tuple[int, int, int], *, max_clips: int = 4
) -> Path:
    """Writes an endless GIF: clips side by side, below each the same clip with hidden tubes grey.

    Arguments and errors as in `hide_tubes`; the first `max_clips` clips, all frames.
    """
    visible = hide_tubes(video, mask, tube_size)
    width, height = style.fit(video[0, 0], CELL).size
    clips = min(len(video), max_clips)
    pictures = []
    for frame in range(video.shape[1]):
        picture, _ = style.canvas(clips * (width + style.GAP) - style.GAP, 2 * height + style.GAP)
        for clip in range(clips):
            left = clip * (width + style.GAP)
            picture.paste(style.fit(video[clip, frame], CELL), (left, 0))
            picture.paste(style.fit(visible[clip, frame], CELL), (left, height + style.GAP))
        pictures.append(picture)
    return style.save_animation(path, pictures)
