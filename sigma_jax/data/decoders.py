"""The libraries that decode videos: PyAV, and decord or torchcodec where they are installed. The frames are the same.

PyAV (decode.py) defines the numbers of frames. The other libraries number frames themselves, so they are used only
where the packets of a video leave no doubt about the numbers (decode.is_plain), its codec is one in which they seek
exactly (tests/data/test_decoders.py), and they count as many frames as full decoding gives. PyAV decodes everything
else: AVI, HEVC, edit lists that hide frames, and videos that the library refuses.
"""

import contextlib
import functools
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sigma_jax.data import decode
from sigma_jax.runtime.errors import InvalidValue

_EXACT = {"h264", "vp8", "vp9"}  # FFmpeg's names; decord loses pictures of HEVC after a seek


@dataclass(frozen=True)
class Decoding:
    """How videos are decoded.

    Attributes:
      decoder: one of DECODERS; `auto` is PyAV, the fastest in our measurements (launch/BENCHMARKS.md).
      timeout: seconds that decoding one clip may take, 0 for no limit; a video that takes longer counts as unreadable.
    """

    decoder: str = "auto"
    timeout: float = 60.0

    def __post_init__(self):
        """Raises ValueError for a decoder that is unknown or not installed, and for a negative timeout."""
        if self.timeout < 0:
            raise InvalidValue(f"decode_timeout={self.timeout} must be at least 0 seconds (0: no limit)")
        find(self.decoder)


def decode_frames(data: bytes, indices: np.ndarray, num_frames: int | None, decoder: str) -> np.ndarray:
    """`decode.decode_frames` by the library `decoder`, one of DECODERS.

    Raises:
      BadVideo: the frames cannot be decoded.
      InvalidValue: an unknown decoder, or one that is not installed.
    """
    read = find(decoder)
    if read is not None and num_frames and decode.is_plain(data, num_frames, _EXACT):
        with contextlib.suppress(Exception):  # PyAV decodes the video then, or raises the error
            frames = read(data, np.asarray(indices), num_frames)
            if frames is not None:
                return frames
    return decode.decode_frames(data, indices, num_frames)


@functools.cache
def find(decoder: str) -> Callable[[bytes, np.ndarray, int], np.ndarray | None] | None:
    """The reader of a library, None for PyAV.

    Raises ValueError that names the known decoders, or how to install this one.
    """
    if decoder not in DECODERS:
        raise InvalidValue(f"decoder {decoder!r} is unknown, expected one of {', '.join(DECODERS)}")
    read = DECODERS[decoder]
    try:
        if read is not None:
            module = importlib.import_module(decoder)
            if getattr(module, "ffmpeg_major_version", "any") is None:  # torchcodec since 0.17: pictures only
                raise ImportError("it finds no FFmpeg libraries")
    except (ImportError, OSError, RuntimeError) as error:  # torchcodec: FFmpeg or torch do not fit
        reason = str(error).strip().partition("\n")[0]
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == decoder
        advice = f"pip install {decoder}" if is_missing else "mend its installation"
        raise InvalidValue(
            f"decoder {decoder!r} cannot be used ({reason}): {advice}, or choose another of {', '.join(DECODERS)}; "
            "auto and pyav need nothing more"
        ) from error
    return read


def _decord(data: bytes, indices: np.ndarray, num_frames: int) -> np.ndarray | None:
    """None where the library counts another number of frames; it fails for some rotated and some tiny videos."""
    from decord import VideoReader

    reader = VideoReader(io.BytesIO(data), num_threads=1)
    return reader.get_batch(indices).asnumpy() if len(reader) == num_frames else None


def _torchcodec(data: bytes, indices: np.ndarray, num_frames: int) -> np.ndarray | None:
    """None where the library counts another number of frames."""
    from torchcodec.decoders import VideoDecoder

    reader = VideoDecoder(data, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    return reader.get_frames_at(indices.tolist()).data.numpy() if len(reader) == num_frames else None


DECODERS = {"auto": None, "pyav": None, "decord": _decord, "torchcodec": _torchcodec}
AUTO = Decoding()
