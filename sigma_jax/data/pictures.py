"""Decoding pictures: encoded frames of a video with libjpeg-turbo or OpenCV, still images with Pillow.

The size in a picture's header is checked before it is decoded, and whatever a decoder raises becomes BadVideo.
"""

import io
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from sigma_jax.data import jpeg_crop
from sigma_jax.runtime.errors import UserError

MAX_PIXELS = 2**26  # per frame; larger pictures are refused before memory is allocated
_JPEG = b"\xff\xd8"

ChooseBox = Callable[[int, int], jpeg_crop.Box]  # (height, width) -> the part that is wanted


class BadVideo(UserError, ValueError):
    """A video or picture cannot be decoded or used; the message is the reason."""


class decoder_errors:  # noqa: N801 - used like contextlib.suppress; a generator would cost 5 us for every frame
    """Turns whatever a decoder raises inside the block into BadVideo with the message "`what`: the reason"."""

    __slots__ = ("what",)

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Libraries raise errors of many kinds for damaged data, MemoryError among them; time_limit.py a TimeoutError.
        if isinstance(error, Exception) and not isinstance(error, (BadVideo, TimeoutError)):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BadVideo(f"{self.what}: {reason}") from error


def decode_images(images: Sequence[bytes], choose_box: ChooseBox | None = None) -> np.ndarray:
    """Decodes pictures of one size (JPEG; PNG and others through OpenCV) as RGB uint8 [n h w 3].

    Args:
      images: n encoded pictures.
      choose_box: returns the wanted part (top, left, height, width) of pictures of size (height, width); None: all. Of
        JPEGs with restart markers only that part is decoded (jpeg_crop.py); the pixels are the same.

    Raises:
      BadVideo: a picture that cannot be decoded, or is of another size than the first.
    """
    if not images:
        raise BadVideo("no frames")
    if choose_box is None or images[0][:2] != _JPEG:
        return cut_out(_decode_whole(images), choose_box)
    box = choose_box(*_size_of(images[0], 0))
    with decoder_errors("the frames are damaged"):
        parts = jpeg_crop.cut(images, box)
    if parts is None:
        return _part(_decode_whole(images), box)
    return _part(_decode_whole(parts[0]), (*parts[1], *box[2:]))


def cut_out(video: np.ndarray, choose_box: ChooseBox | None) -> np.ndarray:
    """A view of the wanted part of [F h w 3]; all of it without choose_box."""
    return video if choose_box is None else _part(video, choose_box(*video.shape[1:3]))


def _part(video: np.ndarray, box: jpeg_crop.Box) -> np.ndarray:
    top, left, height, width = box
    return video[:, top : top + height, left : left + width]


def _size_of(image: bytes | bytearray, number: int) -> tuple[int, int]:
    """(height, width) in the header of encoded frame `number`; raises BadVideo if it is no picture, or too large."""
    with decoder_errors(f"frame {number} is no picture"):
        if image[:2] == _JPEG:
            height, width = simplejpeg.decode_jpeg_header(image)[:2]
        else:
            width, height = _open(io.BytesIO(image)).size
    if height * width > MAX_PIXELS:
        raise BadVideo(f"frame {number} claims {width} x {height} pixels, more than {MAX_PIXELS}")
    return height, width


def _decode_whole(images: Sequence[bytes | bytearray]) -> np.ndarray:
    video = None
    for number, data in enumerate(images):
        (height, width), picture = _size_of(data, number), None
        if data[:2] != _JPEG:
            with decoder_errors(f"frame {number} is damaged"):
                picture = _decode_other(data)
            height, width = picture.shape[:2]  # upright
        if video is None:
            video = np.empty((len(images), height, width, 3), np.uint8)
        if video.shape[1:3] != (height, width):
            raise BadVideo(f"frame {number} is {width}x{height}, the first one {video.shape[2]}x{video.shape[1]}")
        with decoder_errors(f"frame {number} is damaged"):
            if picture is None:
                simplejpeg.decode_jpeg(data, buffer=video[number])
            else:
                video[number] = picture
    return video


def _decode_other(data: bytes | bytearray) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise BadVideo("the picture cannot be decoded")
    return picture


def _open(file: BinaryIO) -> Image.Image:
    """Opens a picture and reads its header only."""
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        raise ValueError("unknown or damaged format") from error


def open_image(file: BinaryIO) -> Image.Image:
    """Decodes a still picture; raises BadVideo if that fails, or it has too many pixels."""
    with decoder_errors("not readable as an image"):
        image = _open(file)
        if image.width * image.height > MAX_PIXELS:
            raise BadVideo(f"claims {image.width} x {image.height} pixels, more than {MAX_PIXELS}")
        image.load()
    return image


def decode_image(data: bytes) -> np.ndarray:
    """A still picture as RGB uint8 [h w 3]; raises BadVideo where it cannot be read."""
    image = open_image(io.BytesIO(data))
    with decoder_errors("not readable as an image"):
        return np.asarray(image.convert("RGB"))
