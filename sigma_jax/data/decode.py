"""The only place that touches a video decoder (PyAV): chosen frames, or everything as a check.

Frames are numbered in order of presentation, as they come out when a file is decoded from its start. A seek is used
only where packet timestamps show that it leads to the same frames (see _decode_from_keyframe). Rotation metadata is
applied, non-square pixels are not stretched. One thread per video: parallelism belongs to the pipeline.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

_WORTH_A_SEEK = 16  # decoding fewer frames than this costs no more than finding the key frame
_MAX_PIXELS = 2**26  # per frame; larger claims are refused before anything is allocated
_local = threading.local()


class BadVideo(ValueError):
    """These bytes give no usable video; the message is the reason."""


@dataclass(frozen=True)
class VideoInfo:
    """What full decoding found."""

    num_frames: int
    height: int  # pixels, after rotation
    width: int
    fps: float  # 0 where the container states none
    codec: str
    warning: str = ""


def decode_frames(data: bytes, indices: np.ndarray, num_frames: int | None = None) -> np.ndarray:
    """Frames `indices` (any order, repeats allowed) as RGB uint8 [n h w 3].

    Args:
      data: the file's bytes.
      indices: int [n], frame numbers from 0.
      num_frames: how many frames full decoding gave (probe). Where it is known the decoder may start at the last key
        frame before the first index; where it is not, it starts at the beginning. The frames are the same.

    Raises:
      BadVideo: no video stream, an error on the way to the last index, or fewer frames than asked for.
    """
    indices = np.asarray(indices)
    wanted = np.unique(indices)
    frames = None
    if num_frames and wanted[0] >= _WORTH_A_SEEK:
        with _open(data) as (container, stream):
            frames = _decode_from_keyframe(container, stream, wanted, num_frames)
    if frames is None:
        with _open(data) as (container, stream):
            frames = _decode_from_start(container, stream, wanted)
    return np.stack(frames)[np.searchsorted(wanted, indices)]


def probe(data: bytes) -> VideoInfo:
    """Decodes everything and says what it is.

    Raises:
      BadVideo: empty, no container, no video stream, no frame, an error while decoding, or a size that changes.
    """
    with _open(data) as (container, stream):
        num_frames, size, last = 0, None, None
        for num_frames, frame in enumerate(_frames(container, stream), 1):
            if size not in (None, (frame.height, frame.width, _quarter_turns(frame))):
                raise BadVideo(f"the frame size changes at frame {num_frames - 1}")
            size, last = (frame.height, frame.width, _quarter_turns(frame)), frame.time
        if not num_frames:
            raise BadVideo("zero frames: there is a video stream, but no picture in it can be decoded")
        height, width = size[:2] if size[2] % 2 == 0 else size[1::-1]
        declared, fps, codec = stream.frames, float(stream.average_rate or 0), stream.codec_context.name
        seconds = (container.duration or 0) / 1e6
    warning = ""
    if declared and declared != num_frames:
        warning = f"{declared} frames declared, {num_frames} decodable"
    elif not declared and last is not None and fps and last + 1 / fps < 0.9 * seconds:
        warning = f"ends after {last + 1 / fps:.2f} of {seconds:.2f} declared seconds"
    return VideoInfo(num_frames, height, width, fps, codec, warning)


@contextmanager
def _open(data: bytes) -> Iterator[tuple]:
    """(container, first video stream); whatever PyAV raises inside the block becomes BadVideo."""
    import av  # lazy: training from JPEG shards needs no video decoder

    if not data:
        raise BadVideo("empty file")
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            cover = av.stream.Disposition.attached_pic
            streams = [s for s in container.streams.video if not s.disposition & cover]
            if not streams:
                kinds = sorted({s.type for s in container.streams})
                raise BadVideo(f"no video stream, only {kinds or 'nothing'}")
            context = streams[0].codec_context
            if context is None:
                raise BadVideo("no decoder for this video codec")
            if context.width * context.height > _MAX_PIXELS:
                raise BadVideo(f"claims {context.width} x {context.height} pixels")
            context.thread_count = 1
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise BadVideo(f"not readable as a video: {error.strerror}") from error


def _frames(container, stream) -> Iterator:
    """Frames in order of presentation; an error names how many came before it."""
    import av

    count = 0
    try:
        for frame in container.decode(stream):
            yield frame
            count += 1
    except av.error.FFmpegError as error:
        raise BadVideo(f"decoding failed after {count} frames: {error.strerror}") from error


def _decode_from_start(container, stream, wanted: np.ndarray) -> list[np.ndarray]:
    images, next_wanted, count = [], 0, 0
    for count, frame in enumerate(_frames(container, stream), 1):
        if count - 1 == wanted[next_wanted]:
            images.append(_to_rgb(frame))
            next_wanted += 1
            if next_wanted == len(wanted):
                return images
    raise BadVideo(f"frame {wanted[next_wanted]} asked for, but only {count} frames can be decoded")


def _decode_from_keyframe(container, stream, wanted: np.ndarray, num_frames: int) -> list[np.ndarray] | None:
    """As _decode_from_start, beginning at a key frame; None where the timestamps do not prove the frame numbers.

    Proof: as many shown packets as decodable frames, all with different timestamps, so that the rank of a timestamp is
    the number of its frame; the seek lands on a key frame not after the first wanted frame; every wanted timestamp
    comes out of the decoder.
    """
    packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
    times = sorted({packet.pts for packet in packets if packet.pts is not None})
    if len(packets) != num_frames or len(times) != num_frames or wanted[-1] >= num_frames:
        return None
    first, pending = times[wanted[0]], [times[i] for i in wanted]
    keys = [packet.pts for packet in packets if packet.is_keyframe and packet.pts <= first]
    if not keys or max(keys) == times[0]:
        return None
    container.seek(max(keys), stream=stream)
    images = []
    for number, packet in enumerate(container.demux(stream)):
        if number == 0 and (not packet.is_keyframe or packet.pts is None or packet.pts > first):
            return None
        for frame in packet.decode():
            if frame.pts is None or frame.pts > pending[len(images)]:
                return None
            if frame.pts == pending[len(images)]:
                images.append(_to_rgb(frame))
                if len(images) == len(pending):
                    return images
    return None


def _quarter_turns(frame) -> int:
    """Counter-clockwise quarter turns that the display matrix asks for."""
    return round(frame.rotation / 90) % 4 if abs(frame.rotation) <= 360 else 0


def _to_rgb(frame) -> np.ndarray:
    """uint8 [h w 3]; one converter per thread, because setting one up costs more than using it on a small frame."""
    from av.video.reformatter import VideoReformatter

    if not hasattr(_local, "reformatter"):
        _local.reformatter = VideoReformatter()
    image = _local.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return np.rot90(image, _quarter_turns(frame))


def decode_image(data: bytes) -> np.ndarray:
    """A still picture as RGB uint8 [h w 3]; raises BadVideo where it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise BadVideo(f"not readable as an image: {error}") from error
