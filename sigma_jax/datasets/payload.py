"""The forms in which a video is stored: its bytes as they are, a small re-encoded video, or its frames as JPEGs.

Frames have the same numbers in every payload. `video-small` and `jpeg` are upright (rotation applied), without audio,
and shrunk so that the short side is at most `short_side`; no video is enlarged.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from sigma_jax.data import augment, jpeg_crop
from sigma_jax.data.decode import VideoInfo, probe
from sigma_jax.data.pictures import BadVideo, decode_images
from sigma_jax.data.schema import Record
from sigma_jax.runtime.errors import InvalidValue

PAYLOADS = ("video", "video-small", "jpeg")
MIN_SIDE = 16  # pixels: one tube
MAX_BYTES = 2**30  # of one video; a record must stay below 2 GiB
# One frame in 16 is a key frame, and from three of four frames no other frame is predicted: a clip of every fourth
# frame decodes only about half of the frames that it spans. Without CABAC files are a tenth larger and decoding is 1.5
# times as fast. Presets slower than superfast do not give equal bytes for equal videos.
_PRESET = "superfast"
_X264 = "keyint=16:min-keyint=16:scenecut=0:open-gop=0:bframes=3:b-adapt=0:b-pyramid=0:cabac=0"


@dataclass(frozen=True)
class Payload:
    """How videos are stored."""

    kind: str = "video"  # one of PAYLOADS
    short_side: int = 256  # of video-small and jpeg, pixels
    quality: int = 90  # of jpeg, 1..100
    crf: int = 20  # of video-small, H.264 constant rate factor 0..51, lower is better

    def __post_init__(self):
        if self.kind not in PAYLOADS:
            raise InvalidValue(f"payload {self.kind!r} is unknown, expected one of {PAYLOADS}")
        if self.short_side < MIN_SIDE or not 1 <= self.quality <= 100 or not 0 <= self.crf <= 51:
            raise InvalidValue(f"expected short_side >= {MIN_SIDE}, quality in 1..100 and crf in 0..51, got {self}")


def store(data: bytes, payload: Payload) -> tuple[Record, VideoInfo]:
    """(record without key and label, properties of the video) of the bytes of a video file.

    Raises:
      BadVideo: the video is unusable; the message is the reason.
    """
    if len(data) > MAX_BYTES:
        raise BadVideo(f"{len(data)} bytes, more than {MAX_BYTES}: cut or re-encode it")
    if payload.kind == "video":
        info = probe(data)
        _check_size(info.height, info.width)
        return Record(data, num_frames=info.num_frames, height=info.height, width=info.width, fps=info.fps), info
    sink = _JpegSink(payload) if payload.kind == "jpeg" else _VideoSink(payload)
    info = probe(data, sink.add)
    return sink.finish(info.fps), info


def store_frames(paths: list[Path], payload: Payload) -> Record:
    """The record of a video whose frames are pictures, in order; JPEGs that are small enough are stored as they are.

    The frame rate is 0, for unknown.

    Raises:
      BadVideo: no picture, a damaged one, one of another size, or a payload other than `jpeg`.
    """
    if payload.kind != "jpeg":
        raise BadVideo(f"a folder of pictures needs --payload=jpeg, not {payload.kind}")
    sink, total = _JpegSink(payload), 0
    for path in paths:
        image = path.read_bytes()
        try:
            frame = decode_images([image])[0]
        except BadVideo as error:
            raise BadVideo(f"{path.name}: {str(error).removeprefix('frame 0 ')}") from error
        keep = min(frame.shape[:2]) <= payload.short_side and image[:2] == b"\xff\xd8"
        sink.add(frame, image if keep else None)
        total += len(sink.frames[-1])
        if total > MAX_BYTES:
            raise BadVideo(f"more than {MAX_BYTES} bytes: cut it or choose a smaller --short_side")
    if not paths:
        raise BadVideo("no pictures")
    return sink.finish(0.0)


def _check_size(height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise BadVideo(f"too small: {width}x{height} pixels, at least {MIN_SIDE} on each side are needed")


def _shrink(image: np.ndarray, short_side: int) -> np.ndarray:
    """Upright picture [h w 3] with its short side at most `short_side`."""
    height, width = image.shape[:2]
    _check_size(height, width)
    short = min(height, width)
    if short <= short_side:
        return np.ascontiguousarray(image)
    height, width = (max(round(side * short_side / short), short_side) for side in (height, width))
    return augment.resize(image[None], height, width)[0]


def _encode(image: np.ndarray, quality: int) -> bytes:
    """Encodes uint8 [h w 3] as a JPEG with restart markers (data/jpeg_crop.py).

    Chroma is 4:2:0 as in most videos: a quarter smaller, and faster to decode, than 4:4:4.
    """
    file, interval = io.BytesIO(), jpeg_crop.restart_interval(image.shape[1])
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0", restart_marker_blocks=interval)
    return file.getvalue()


class _JpegSink:
    def __init__(self, payload: Payload):
        self.payload, self.frames, self.size = payload, [], None

    def add(self, image: np.ndarray, encoded: bytes | None = None) -> None:
        image = _shrink(image, self.payload.short_side)
        if self.size not in (None, image.shape[:2]):
            raise BadVideo(f"frame {len(self.frames)} is {image.shape[1]}x{image.shape[0]}, unlike the first one")
        self.size = image.shape[:2]
        self.frames.append(encoded or _encode(image, self.payload.quality))

    def finish(self, fps: float) -> Record:
        height, width = self.size
        return Record(num_frames=len(self.frames), height=height, width=width, fps=fps, frames=tuple(self.frames))


class _VideoSink:
    """H.264 in mp4: one thread and fixed settings, so equal videos give equal bytes."""

    def __init__(self, payload: Payload):
        import av
        from av.video.reformatter import VideoReformatter

        self.payload, self.file, self.count, self.size = payload, io.BytesIO(), 0, None
        self.reformatter = VideoReformatter()
        self.container = av.open(self.file, "w", format="mp4", options={"fflags": "+bitexact"})  # no time of day

    def add(self, image: np.ndarray) -> None:
        import av

        image = _shrink(image, self.payload.short_side)
        image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]  # 4:2:0 needs even sides
        if self.size is None:
            self.size = image.shape[:2]
            options = {"crf": str(self.payload.crf), "preset": _PRESET, "x264-params": _X264}
            self.stream = self.container.add_stream("libx264", rate=25, options=options)
            self.stream.height, self.stream.width, self.stream.pix_fmt = *self.size, "yuv420p"
            self.stream.codec_context.thread_count = 1
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = self.reformatter.reformat(frame, format="yuv420p", threads=1)
        frame.pts, frame.time_base = self.count, Fraction(1, 25)  # the true rate stands in the record
        self.count += 1
        self.container.mux(self.stream.encode(frame))

    def finish(self, fps: float) -> Record:
        self.container.mux(self.stream.encode(None))
        self.container.close()
        height, width = self.size
        return Record(self.file.getvalue(), num_frames=self.count, height=height, width=width, fps=fps)
