"""Short videos with odd timestamps, made with PyAV: every frame has a grey level that tells its number."""

import io
import struct
from fractions import Fraction

import av
import numpy as np

COUNT, HEIGHT, WIDTH = 40, 48, 64
_BASE = Fraction(1, 1000)


def video(
    codec: str = "libx264",
    container: str = "mp4",
    *,
    times: list[int] | None = None,
    shift: int = 0,
    options: dict[str, str] | None = None,
) -> bytes:
    """COUNT frames at `times` milliseconds (default: 25 a second); `shift` is added to the times of packets.

    A negative shift puts the first frames before time 0; mp4 then has an edit list that hides them.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options or {"g": "10", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = stream.time_base = _BASE if codec != "mpeg4" else Fraction(1, 25)
        packets = []
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = number if codec == "mpeg4" else (times or range(0, 40 * COUNT, 40))[number]
            frame.time_base = stream.codec_context.time_base
            packets += stream.encode(frame)
        for packet in packets + stream.encode(None):
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            output.mux(packet)
    return file.getvalue()


def picture(number: int) -> np.ndarray:
    """RGB uint8 [HEIGHT WIDTH 3]; the left half is darker, so that turns show."""
    image = np.full((HEIGHT, WIDTH, 3), 60 + 7 * (number * 17 % 25), np.uint8)
    image[:, : WIDTH // 2] //= 2
    image[: HEIGHT // 2] //= 2
    return image


def shown_by(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The mp4 with a display matrix: the point (x, y) of a picture is shown at (a x + c y, b x + d y)."""
    place, one = mp4.index(b"tkhd") + 44, 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return mp4[:place] + matrix + mp4[place + 36 :]


def rotated(mp4: bytes, turns: int) -> bytes:
    """The mp4 with a display matrix of so many clockwise quarter turns."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns % 4]
    return shown_by(mp4, cos, sin, -sin, cos)


_UNEVEN = [int(t) for t in np.cumsum(np.random.default_rng(0).integers(5, 120, COUNT))]
_B_FRAMES = {"g": "10", "bf": "3", "x264-params": "b-adapt=0:b-pyramid=normal"}
ODD = {
    "plain": lambda: video(),
    "b_frames": lambda: video(options=_B_FRAMES),
    "open_gop": lambda: video(options=_B_FRAMES | {"x264-params": "b-adapt=0:open-gop=1"}),
    "vfr": lambda: video(times=_UNEVEN, options=_B_FRAMES),
    "vfr_mkv": lambda: video(container="matroska", times=_UNEVEN, options=_B_FRAMES),
    "late_start": lambda: video(shift=770, options=_B_FRAMES),
    "negative_start": lambda: video(shift=-130),
    "edit_list_in_b_frames": lambda: video(shift=-210, options=_B_FRAMES),
    "negative_start_vfr": lambda: video(shift=-300, times=_UNEVEN, options=_B_FRAMES),
    "vp9": lambda: video("libvpx-vp9", "webm", options={"g": "12"}),
    "vp9_vfr": lambda: video("libvpx-vp9", "webm", times=_UNEVEN, options={"g": "12"}),
    "vp8": lambda: video("libvpx", "webm", options={"g": "12"}),
    "hevc": lambda: video("libx265", options={"x265-params": "keyint=10:bframes=3:log-level=none"}),
    "avi": lambda: video("mpeg4", "avi", options={"g": "12", "bf": "2"}),
    "rotated": lambda: rotated(video(), 1),
    "rotated_180": lambda: rotated(video(options=_B_FRAMES), 2),
    "rotated_270": lambda: rotated(video(shift=-130), 3),
    "mirrored": lambda: shown_by(video(), -1, 0, 0, 1),
    "mirrored_and_rotated": lambda: shown_by(video(options=_B_FRAMES), 0, 1, 1, 0),
}
