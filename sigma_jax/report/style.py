"""What all pictures of a run share: colours, text, and frames scaled to cells."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, MUTED, RULE, PAPER = "#1d2433", "#6b7385", "#e3e6ec", "#ffffff"
BLUE, ORANGE, TEAL, PURPLE, ROSE, OLIVE = "#2f6db5", "#e07b39", "#2a9d8f", "#7d5ba6", "#c8506b", "#8a8f2d"
SERIES = (BLUE, ORANGE, TEAL, PURPLE, ROSE, OLIVE)  # told apart with the common colour-vision deficiencies
HIDDEN = (214, 218, 225)  # a tube the encoder does not see

TEXT = 18  # px, font size in pictures
GAP = 6  # px between cells
MARGIN = 28  # px around a picture
FRAME_MS = 125  # how long an animation shows each frame


def fit(image: np.ndarray, side: int) -> Image.Image:
    """uint8 [y x 3] -> picture whose longer side is about `side` px.

    Small images grow by a whole factor with their pixels kept square and sharp; large ones shrink, filtered.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    picture = Image.fromarray(image)
    if longer <= side:
        factor = side // longer
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    size = max(1, round(width * side / longer)), max(1, round(height * side / longer))
    return picture.resize(size, Image.Resampling.LANCZOS)


def canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """White picture of `width` x `height` px, and the object that draws on it."""
    picture = Image.new("RGB", (width, height), PAPER)
    return picture, ImageDraw.Draw(picture)


def write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, *, color: str = INK) -> float:
    """Writes one line of text with its left end on the baseline at `at`; returns the x where it ends."""
    font = ImageFont.load_default(TEXT)
    pen.text(at, text, fill=color, font=font, anchor="ls")
    return at[0] + font.getlength(text)


def write_wrapped(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, width: float) -> None:
    """Writes `text` in lines of at most `width` px; the first baseline starts at `at`."""
    font, line, y = ImageFont.load_default(TEXT), "", at[1]
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            write(pen, (at[0], y), line)
            line, y = word, y + 1.25 * TEXT
        else:
            line = longer
    write(pen, (at[0], y), line)


def check_video(video: np.ndarray) -> None:
    """Raises ValueError unless `video` is uint8 [B F y x 3] with at least one clip."""
    if video.ndim != 5 or video.shape[-1] != 3 or video.dtype != np.uint8 or not video.size:
        raise ValueError(f"video is {video.dtype} {video.shape}; expected uint8 [B F y x 3] with one clip or more")


def grid_shape(video: np.ndarray, tube_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """(t, h, w) of `video` [B F y x 3] cut into tubes; raises ValueError where they do not fit."""
    check_video(video)
    if any(size % tube for size, tube in zip(video.shape[1:4], tube_size, strict=True)):
        raise ValueError(f"clips of {video.shape[1:4]} frames, rows, columns are not a multiple of tubes {tube_size}")
    return tuple(size // tube for size, tube in zip(video.shape[1:4], tube_size, strict=True))


def save_animation(path: Path, pictures: list[Image.Image]) -> Path:
    """Writes pictures of one size as an endless GIF with one palette of 256 colours for all, so it does not flicker."""
    width, height = pictures[0].size
    strip = Image.new("RGB", (width, height * len(pictures)))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (0, i * height))
    palette = strip.quantize(256)
    first, *others = (picture.quantize(palette=palette) for picture in pictures)
    first.save(path, save_all=True, append_images=others, duration=FRAME_MS, loop=0)
    return path
