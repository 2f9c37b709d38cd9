"""Decoding videos with PyAV: chosen frames, or everything. Other libraries: decoders.py. Encoded frames: pictures.py.

Frames are numbered in order of presentation, as they come out when a file is decoded from its start. A seek is used
only where packet timestamps show that it leads to the same frames (see _decode_by_time). Pictures are turned and
mirrored as the display matrix says; non-square pixels are not stretched. Of several video streams the one that FFmpeg
takes is decoded. One thread per video: parallelism belongs to the loader.
"""

import contextlib
import io
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from sigma_jax.data import time_limit
from sigma_jax.data.pictures import MAX_PIXELS, BadVideo, decoder_errors

_STORES_TIMES = {"mp4", "matroska"}  # FFmpeg's names of container formats
_SKIPS_EXACTLY = {"h264", "hevc"}  # decoders that can skip frames without references to them, and change no other frame
ONE_FRAME = "one frame: a picture, not a video"
_local = threading.local()


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video, as found by decoding all of it."""

    num_frames: int
    height: int  # pixels, upright
    width: int
    fps: float  # average; 0 where the container states none
    codec: str
    warning: str = ""
    times: tuple[float, ...] = ()  # seconds from the start of the file at which each frame is shown; see _times


def decode_frames(data: bytes | Path, indices: np.ndarray, num_frames: int | None = None) -> np.ndarray:
    """Decodes frames `indices` (any order, repeats allowed) as RGB uint8 [n h w 3].

    Args:
      data: the file's bytes, or its path.
      indices: int [n], frame numbers from 0.
      num_frames: the number of frames that full decoding gives (probe). If it is known the decoder may start at the
        last key frame before the first index and skip frames that no other one needs; otherwise it decodes everything
        from the beginning. The frames are the same in both cases.

    Raises:
      BadVideo: no video stream, an error before the last index, or fewer frames than requested.
    """
    indices = np.asarray(indices)
    wanted = np.unique(indices)
    frames = None
    if num_frames and len(wanted) <= wanted[-1]:  # some frame up to the last one can be skipped
        with _open(data) as (container, stream), decoder_errors("not readable as a video"):
            frames = _decode_by_time(container, stream, wanted, num_frames)
    if frames is None:
        with _open(data) as (container, stream), decoder_errors("not readable as a video"):
            frames = _decode_from_start(container, stream, wanted)
    return frames if np.array_equal(wanted, indices) else frames[np.searchsorted(wanted, indices)]


def probe(
    data: bytes | Path, visit: Callable[[np.ndarray], None] | None = None, wanted: np.ndarray | None = None
) -> VideoInfo:
    """Decodes the whole video and returns its properties.

    Args:
      data: the file's bytes, or its path.
      visit: called with every frame in order, RGB uint8 [h w 3], upright.
      wanted: bool [n]; `visit` is called with these frames only.

    Raises:
      BadVideo: empty, no container, no video stream, no frame, an error while decoding, or a size that changes.
    """
    with _open(data) as (container, stream):
        size, shown = None, []
        for number, frame in enumerate(_frames(container, stream)):
            if size not in (None, (frame.height, frame.width, _turn_of(frame))):
                raise BadVideo(f"the frame size changes at frame {number}")
            size = frame.height, frame.width, _turn_of(frame)
            shown.append(frame.time)
            if visit and (wanted is None or (number < len(wanted) and wanted[number])):
                visit(_upright(frame))
        if not shown:
            raise BadVideo("zero frames: there is a video stream, but no picture in it can be decoded")
        height, width = size[1::-1] if size[2].transpose else size[:2]
        fps, codec = float(stream.average_rate or 0), stream.codec_context.name
        times = _times(shown, _origin(container, shown[0]), fps)
        warnings = [*_stream_notes(container, stream), *_length_notes(container, stream, times, fps)]
    return VideoInfo(len(shown), height, width, fps, codec, "; ".join(warnings), times)


def count_packets(data: bytes | Path) -> int:
    """Packets with a picture that is shown: nearly always as many as frames (probe), and much quicker to find.

    Raises BadVideo where there is no video.
    """
    with _open(data) as (container, stream):
        return sum(bool(packet.size) and not packet.is_discard for packet in container.demux(stream))


def _origin(container, first: float | None) -> float:
    """The timestamp, in seconds, at which a file starts."""
    if container.format.name in ("mpegts", "mpeg"):
        return (container.start_time or 0) / 1e6  # the broadcast clock does not start at 0
    # AVI stores no timestamps: they are derived from the order of packets, and late by the decoder's delay in frames.
    return first or 0.0 if container.format.name == "avi" else 0.0


def _times(shown: list[float | None], start: float, fps: float) -> tuple[float, ...]:
    """Seconds from the start of the file at which frames are shown.

    If timestamps are missing or not ascending, frames are taken to follow at the average rate; without a rate the times
    are NaN, for unknown.
    """
    if None not in shown and all(a <= b for a, b in itertools.pairwise(shown)):
        return tuple(time - start for time in shown)
    return tuple(number / fps if fps else math.nan for number in range(len(shown)))


def _length_notes(container, stream, times: tuple[float, ...], fps: float) -> Iterator[str]:
    """Notes for a video whose number of frames or length is not the declared one, or that has one frame only."""
    if len(times) == 1:
        yield ONE_FRAME
    if stream.frames and stream.frames != len(times):
        yield f"{stream.frames} frames declared, {len(times)} decodable"
    seconds, end = (container.duration or 0) / 1e6, times[-1] + 1 / fps if fps else math.nan
    if not stream.frames and end < 0.9 * seconds:
        yield f"ends after {end:.2f} of {seconds:.2f} declared seconds"


def _stream_notes(container, stream) -> Iterator[str]:
    """A note that names the chosen one of several video streams."""
    sizes = {s.index: "{}x{}".format(*_declared_size(s)) for s in _video_streams(container)}
    others = [f"{index} ({size})" for index, size in sizes.items() if index != stream.index]
    if others:
        yield f"video stream {stream.index} ({sizes[stream.index]}) taken, not {', '.join(others)}"


@contextlib.contextmanager
def _open(data: bytes | Path) -> Iterator[tuple]:
    """(container, the video stream to decode); whatever PyAV raises inside the block becomes BadVideo."""
    import av  # lazy: training from JPEG shards needs no video decoder

    if not (data.stat().st_size if isinstance(data, Path) else data):
        raise BadVideo("empty file")
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_file(data))
            with decoder_errors("not readable as a video"):
                container = stack.enter_context(av.open(file, metadata_errors="ignore"))
            streams = _video_streams(container)
            if not streams:
                kinds = sorted({s.type for s in container.streams})
                raise BadVideo(f"no video stream, only {kinds or 'nothing'}")
            stream = max(streams, key=_rank) if len(streams) > 1 else streams[0]
            context = stream.codec_context
            if context is None:
                raise BadVideo("no decoder for this video codec")
            if context.width * context.height > MAX_PIXELS:
                raise BadVideo(f"claims {context.width} x {context.height} pixels")
            context.thread_count = 1
            context.options = {"max_pixels": str(MAX_PIXELS)}  # frames may claim more than the container
            yield container, stream
    except av.error.FFmpegError as error:
        raise BadVideo(f"not readable as a video: {error.strerror}") from error


def _file(data: bytes | Path) -> BinaryIO:
    return data.open("rb") if isinstance(data, Path) else io.BytesIO(data)


def _video_streams(container) -> list:
    """Video streams, without cover pictures."""
    import av

    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def _rank(stream) -> int:
    """FFmpeg's score of a video stream, pixels plus a bonus for the default stream; it takes the highest, first one."""
    import av

    width, height = _declared_size(stream)
    return width * height + 5_000_000 * bool(stream.disposition & av.stream.Disposition.default)


def _declared_size(stream) -> tuple[int, int]:
    """(width, height); 0, 0 where there is no decoder that could tell."""
    context = stream.codec_context
    return (context.width, context.height) if context else (0, 0)


def _frames(container, stream) -> Iterator:
    """Frames in order of presentation; an error names how many came before it."""
    guard = decoder_errors("decoding failed after 0 frames")
    with guard:
        for count, frame in enumerate(container.decode(stream), 1):
            time_limit.check()
            yield frame
            guard.what = f"decoding failed after {count} frames"


def _decode_from_start(container, stream, wanted: np.ndarray) -> np.ndarray:
    images, count = _Images(len(wanted)), 0
    for count, frame in enumerate(_frames(container, stream), 1):
        if count - 1 == wanted[images.filled]:
            images.append(frame)
            if images.filled == len(wanted):
                return images.array
    raise BadVideo(f"frame {wanted[images.filled]} asked for, but only {count} frames can be decoded")


def _decode_by_time(container, stream, wanted: np.ndarray, num_frames: int) -> np.ndarray | None:
    """The frames of `_decode_from_start`, decoded from the last useful key frame on, without unneeded frames.

    None unless the timestamps prove the frame numbers: the container stores timestamps (those of AVI are derived);
    there are as many shown packets as decodable frames, all with different timestamps, so that the rank of a timestamp
    is the number of its frame; the seek reaches a key frame not after the first wanted frame; and the decoder returns
    every wanted timestamp.
    """
    packets = [packet for packet in _stored_packets(container, stream) if not packet.is_discard]
    times = sorted({packet.pts for packet in packets if packet.pts is not None})
    if len(packets) != num_frames or len(times) != num_frames or wanted[-1] >= num_frames:
        return None
    pending = [times[i] for i in wanted]
    keys = [packet.pts for packet in packets if packet.is_keyframe and packet.pts <= pending[0]]
    if not keys:
        return None
    container.seek(max(keys), stream=stream)
    images, shown, context = _Images(len(wanted)), set(pending), stream.codec_context
    for number, packet in enumerate(container.demux(stream)):
        time_limit.check()
        if number == 0 and (not packet.is_keyframe or packet.pts is None or packet.pts > pending[0]):
            return None
        if context.name in _SKIPS_EXACTLY:
            context.skip_frame = "DEFAULT" if packet.pts in shown or not packet.size else "NONREF"
        for frame in packet.decode():
            if frame.pts is None or frame.pts > pending[images.filled]:
                return None
            if frame.pts == pending[images.filled]:
                images.append(frame)
                if images.filled == len(pending):
                    return images.array
    return None


def _stored_packets(container, stream) -> list:
    """All packets with a picture; none where the file stores no timestamps."""
    if not _STORES_TIMES & set(container.format.name.split(",")):
        return []
    packets = [packet for packet in container.demux(stream) if packet.size]
    time_limit.check()
    return packets


def is_plain(data: bytes, num_frames: int, codecs: set[str]) -> bool:
    """Whether every decoding library must number the frames alike.

    This holds for one video stream with one of `codecs` (FFmpeg's names), as many packets as full decoding gives
    frames, none of them hidden by an edit list, each with its own timestamp, and no display matrix that mirrors, which
    not all libraries apply. Raises BadVideo where there is no video.
    """
    with _open(data) as (container, stream):
        if stream.codec_context.name not in codecs or len(container.streams.video) > 1:
            return False
        packets = _stored_packets(container, stream)
        times = {packet.pts for packet in packets if packet.pts is not None}
        if not len(packets) == len(times) == num_frames or any(packet.is_discard for packet in packets):
            return False
    with _open(data) as (container, stream):
        return not any(_turn_of(frame).mirrors for frame in itertools.islice(_frames(container, stream), 1))


class _Images:
    """RGB pictures [n h w 3] filled in one by one, upright."""

    def __init__(self, count: int):
        self.count, self.filled, self.array = count, 0, None

    def append(self, frame) -> None:
        image = _upright(frame)
        if self.array is None:
            self.array = np.empty((self.count, *image.shape), np.uint8)
        if image.shape != self.array.shape[1:]:
            raise BadVideo(f"the frame size changes from {self.array.shape[1:3]} to {image.shape[:2]}")
        self.array[self.filled] = image
        self.filled += 1


def _upright(frame) -> np.ndarray:
    """RGB uint8 [h w 3], a view."""
    from av.video.reformatter import VideoReformatter

    if not hasattr(_local, "reformatter"):  # setting one up costs more than using it on a small frame
        _local.reformatter = VideoReformatter()
    with decoder_errors("a frame cannot be converted to RGB"):
        plane = _local.reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)[:, : 3 * frame.width]
    return _turn_of(frame).apply(rows.reshape(frame.height, frame.width, 3))


class _Turn(NamedTuple):
    """One of the eight orientations of a picture: it is transposed first, then flipped along its new axes."""

    transpose: bool
    flip_x: bool
    flip_y: bool

    @property
    def mirrors(self) -> bool:
        return sum(self) % 2 == 1

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A view of [h w 3]."""
        if self is _UPRIGHT:
            return picture
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def _turn_of(frame) -> _Turn:
    """The orientation in a frame's display matrix, rounded to a quarter turn; upright if there is none or a void one.

    A point (x, y) of the picture is shown at (a x + c y, b x + d y), with y counted downwards.
    """
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX) if frame.side_data else None
    if matrix is None:
        return _UPRIGHT
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Turn(True, c < 0, b < 0)
    return _Turn(False, a < 0, d < 0)


_UPRIGHT = _Turn(False, False, False)
