"""Labelled moving shapes: a data set on which a small model learns to see motion within minutes.

Every clip shows one bright, lightly textured shape (of 5 kinds) on a dark, smooth, slightly drifting background; it
moves in one of 8 ways. Phase, speed, size and colours are random and independent of the label, and shapes of one radius
cover equal areas. The centres of the shapes stay close to the middle (within 0.15 of the side) and the colour of the
background varies, so that one frame does not reveal the motion.
In camouflaged clips the same shapes move in the same ways, but shape and background have the same colours equally
often: stripes of one width, brightness and contrast in two directions, each moving with what it covers. Only the
direction of the stripes and motion tell them apart. Clip i depends on the seed and i only.

Letters: n clips, F frames, s side in pixels.
"""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from sigma_jax.data import time_limit
from sigma_jax.runtime import signals

MOTIONS = ("left", "right", "up", "down", "clockwise", "counterclockwise", "zoom", "spin")
SHAPES = ("disc", "square", "triangle", "plus", "ring")

NOISE = 0.008  # standard deviation, for pixels in [0, 1]; with 0.012 models do not learn within minutes
_FPS = 8
_CHUNK = 64  # clips rendered at once: the arrays stay in cache


def render_clips(
    seed: int, start: int, count: int, num_frames: int = 8, size: int = 32, *, camouflage: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips start .. start + count - 1: (video uint8 [n F s s 3], motion int32 [n], shape int32 [n])."""
    videos, _, motion, shape = render_masked_clips(seed, start, count, num_frames, size, camouflage=camouflage)
    return videos, motion, shape


def render_masked_clips(
    seed: int, start: int, count: int, num_frames: int = 8, size: int = 32, *, camouflage: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`render_clips` with masks of the shapes: (video, mask uint8 [n F s s] of 0 and 1, motion, shape).

    A pixel belongs to the shape if the shape covers more than half of it.
    """
    videos = np.empty((count, num_frames, size, size, 3), np.uint8)
    masks = np.empty((count, num_frames, size, size), np.uint8)
    motion, shape = np.empty(count, np.int32), np.empty(count, np.int32)
    for low in range(0, count, _CHUNK):
        rows = slice(low, min(low + _CHUNK, count))
        rngs = [np.random.default_rng((seed, start + i)) for i in range(rows.start, rows.stop)]
        motion[rows] = [rng.integers(len(MOTIONS)) for rng in rngs]
        shape[rows] = [rng.integers(len(SHAPES)) for rng in rngs]
        draws = np.stack([rng.random(32, dtype=np.float32) for rng in rngs])
        video, alpha = _render(motion[rows], shape[rows], draws, num_frames, size, camouflage)
        for clip, rng in zip(video, rngs, strict=True):
            clip += NOISE * rng.standard_normal(clip.shape, dtype=np.float32)
        videos[rows] = np.clip(video * 255 + 0.5, 0, 255)
        masks[rows] = alpha > 0.5
    return videos, masks, motion, shape


def class_name(motion: int, shape: int) -> str:
    """Folder name of the joint class, `<motion>-<shape>`."""
    return f"{MOTIONS[motion]}-{SHAPES[shape]}"


def write_videos(
    out_dir: str | Path,
    *,
    seed: int,
    start: int,
    count: int,
    labelled: bool = True,
    num_frames: int = 8,
    size: int = 32,
    camouflage: bool = False,
    pool: Executor | None = None,
) -> int:
    """Renders clips to H.264 files `<out_dir>/<motion>-<shape>/<i>.mp4` (flat where not labelled); returns the count.

    4:4:4 chroma and a small quantiser keep a 5-pixel shape intact (mean error below 1 of 255).

    Args:
      pool: processes that render (see `renderers`), None for this one.
    """
    out_dir = Path(out_dir)
    folders = [class_name(m, s) for m in range(len(MOTIONS)) for s in range(len(SHAPES))] if labelled else ["."]
    for folder in folders:
        (out_dir / folder).mkdir(parents=True, exist_ok=True)
    step = 250
    jobs = [
        (str(out_dir), seed, low, min(step, start + count - low), labelled, num_frames, size, camouflage)
        for low in range(start, start + count, step)
    ]
    if pool is None:
        return sum(map(_write_chunk, jobs))
    with signals.shielded():  # the first jobs start the processes
        counts = pool.map(_write_chunk, jobs)
    return sum(counts)


def write_sequences(
    out_dir: str | Path,
    *,
    seed: int,
    start: int,
    count: int,
    num_frames: int = 8,
    size: int = 32,
    camouflage: bool = False,
) -> None:
    """Renders clips to annotated sequences `<out_dir>/frames/<clip>/<i>.png` and `masks/<clip>/<i>.png`.

    The folder appears under its name only when complete. Frames are lossless; a mask is a palette image of 0 and 1.
    """
    out_dir = Path(out_dir)
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    videos, masks, motion, shape = render_masked_clips(seed, start, count, num_frames, size, camouflage=camouflage)
    for i in range(count):
        name = f"{class_name(motion[i], shape[i])}-{start + i:06d}"
        for kind, images in (("frames", videos[i]), ("masks", masks[i])):
            (partial / kind / name).mkdir(parents=True)
            for number, image in enumerate(images):
                picture = Image.fromarray(image)
                if kind == "masks":
                    picture.putpalette([0, 0, 0, 255, 255, 255])
                picture.save(partial / kind / name / f"{number:05d}.png")
    os.replace(partial, out_dir)


@contextlib.contextmanager
def renderers(num_workers: int) -> Iterator[Executor | None]:
    """Processes for `write_videos`, to be shared by several calls: starting them costs as much as 500 clips.

    None for 0: this process renders.
    """
    if not num_workers:
        yield None
        return
    with ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=time_limit.end_with_parent) as pool:
        yield pool


def _write_chunk(job: tuple) -> int:
    out_dir, seed, start, count, labelled, num_frames, size, camouflage = job
    videos, motion, shape = render_clips(seed, start, count, num_frames, size, camouflage=camouflage)
    folders = [class_name(m, s) if labelled else "." for m, s in zip(motion, shape, strict=True)]
    encode(videos, [Path(out_dir) / folder / f"{start + i:06d}.mp4" for i, folder in enumerate(folders)])
    return count


def encode(videos: np.ndarray, paths: list[Path]) -> None:
    """Writes uint8 [n F s s 3] as n H.264 files.

    Opening an encoder costs more than coding 8 tiny frames, so all clips go through one encoder with a key frame at the
    start of each, and the packets are then dealt out to their files.
    """
    import av
    from av.video.reformatter import VideoReformatter

    num_frames, joined, reformatter = videos.shape[1], io.BytesIO(), VideoReformatter()
    with av.open(joined, "w", format="mp4") as container:
        gop = f"keyint={num_frames}:min-keyint={num_frames}:scenecut=0:bframes=0"
        options = {"qp": "1", "preset": "ultrafast", "x264-params": gop}
        stream = container.add_stream("libx264", rate=_FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = *videos.shape[2:4], "yuv444p"
        stream.codec_context.thread_count = 1
        for image in videos.reshape(-1, *videos.shape[2:]):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(reformatter.reformat(frame, format="yuv444p", threads=1)))
        container.mux(stream.encode(None))
    joined.seek(0)
    with av.open(joined) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for i, path in enumerate(paths):
            own = packets[i * num_frames : (i + 1) * num_frames]
            first = own[0].dts
            with av.open(str(path), "w", format="mp4") as container:
                stream = container.add_stream_from_template(source.streams.video[0])
                for packet in own:
                    packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, stream
                    container.mux(packet)


def _render(
    motion: np.ndarray, shape: np.ndarray, draws: np.ndarray, num_frames: int, size: int, camouflage: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`paint` for motions and shapes [n], with uniform draws [n 32]."""
    time = np.linspace(-0.5, 0.5, num_frames, dtype=np.float32)  # of the clip's length
    return paint(_trajectory(motion, draws, time), shape, draws, size, camouflage)


def paint(
    path: tuple[np.ndarray, ...], shape: np.ndarray, draws: np.ndarray, size: int, camouflage: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Noise-free clips [n F s s 3] of shapes [n] along a path, and the share of each pixel that the shape covers
    [n F s s]; float32 in 0..1.

    Args:
      path: centre x, y, angle and radius over time, each [n F]; lengths in sides.
      draws: uniform, [n 32], of which 10.. decide texture and colours.
      camouflage: stripes of equal colours instead of a bright shape on a dark background.
    """
    cx, cy, angle, radius = path
    time = np.linspace(-0.5, 0.5, cx.shape[1], dtype=np.float32)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    dx = (axis[None, None, None, :] - cx[:, :, None, None]) / radius[:, :, None, None]
    dy = (axis[None, None, :, None] - cy[:, :, None, None]) / radius[:, :, None, None]
    cos, sin = np.cos(angle)[:, :, None, None], np.sin(angle)[:, :, None, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx  # [n F s s], in radii, turning with the shape
    alpha = np.empty_like(u)
    for kind in range(len(SHAPES)):
        rows = shape == kind
        distance = _signed_distance(kind, u[rows], v[rows])
        alpha[rows] = np.clip(0.5 - distance * radius[rows][:, :, None, None] * size, 0, 1)
    if camouflage:
        on_shape = radius[:, :, None, None] * u, radius[:, :, None, None] * v  # in sides, moving with the shape
        return _camouflaged(on_shape, alpha, draws, axis, time), alpha
    wave = draws[:, 10:13, None, None, None]
    texture = 1 + 0.12 * np.sin(3 * (u + (2 * wave[:, 0] - 1) * v) + 6.28 * wave[:, 1])
    bright = (0.6 + 0.4 * draws[:, None, None, None, 13:16]) * np.minimum(texture, 1)[..., None]
    background = _background(draws[:, 16:32], axis, time)
    return background + alpha[..., None] * (bright - background), alpha


def _trajectory(motion: np.ndarray, draws: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, ...]:
    """Centre x, y, angle and radius over time, each [n F]; lengths in sides, y points down."""
    speed, phase, sign = draws[:, 0, None], 2 * np.pi * draws[:, 1, None], np.where(draws[:, 2, None] < 0.5, -1, 1)
    cx = (0.425 + 0.15 * draws[:, 3, None]) + 0 * time
    cy = (0.425 + 0.15 * draws[:, 4, None]) + 0 * time
    angle = 0.6 * (draws[:, 5, None] - 0.5) + 0 * time
    radius = (0.16 + 0.08 * draws[:, 6, None]) + 0 * time

    def put(array, names, values):
        rows = np.isin(motion, [MOTIONS.index(name) for name in names])
        array[rows] += np.broadcast_to(values, array.shape)[rows]

    travel = (0.15 + 0.35 * speed) * time
    put(cx, ["left"], -travel)
    put(cx, ["right"], travel)
    put(cy, ["up"], -travel)
    put(cy, ["down"], travel)
    turn = 2 * np.pi * (0.5 + 0.5 * speed) * time
    orbit = 0.07 + 0.1 * draws[:, 7, None]
    put(cx, ["clockwise", "counterclockwise"], orbit * np.cos(phase + turn))
    put(cy, ["clockwise"], orbit * np.sin(phase + turn))  # y points down: growing angle is clockwise
    put(cy, ["counterclockwise"], -orbit * np.sin(phase + turn))
    put(angle, ["spin"], phase + sign * 2 * np.pi * (0.3 + 0.3 * speed) * time)
    put(radius, ["zoom"], radius * (np.exp(sign * (0.5 + 0.6 * speed) * time) - 1))
    return tuple(a.astype(np.float32) for a in (cx, cy, angle, radius))


def _signed_distance(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance to the outline, negative inside, in radii; every shape has the area of the unit disc."""
    name = SHAPES[kind]
    if name == "disc":
        return np.hypot(u, v) - 1
    if name == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.886
    if name == "triangle":  # equilateral, tip up
        return np.maximum(v, np.abs(u) * 0.866 - v * 0.5) - 0.7776
    if name == "plus":
        a, b = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
        return np.maximum(a - 1.2, b - 0.391)
    return np.abs(np.hypot(u, v) - 0.9315) - 0.2685  # ring


def _camouflaged(
    on_shape: tuple[np.ndarray, np.ndarray], alpha: np.ndarray, draws: np.ndarray, axis: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """Stripes on the shape, and at right angles to them (within 15 degrees) stripes on the background, drifting a
    little: [n F s s 3]. Both are one sine wave of the same length, level and contrast in every colour.

    Args:
      on_shape: coordinates of the pixels on the shape, [n F s s] each.
    """
    draw = draws[:, :, None, None, None]
    angle, turn = np.pi * draw[:, 10], np.pi * (0.5 + (draw[:, 11] - 0.5) / 6)
    cycles = 2 * np.pi * (5 + 2 * draw[:, 12])  # radians per side
    drift = 0.1 * (2 * draw[:, 16:18] - 1) * time[:, None, None]
    x, y = axis - drift[:, 0], axis[:, None] - drift[:, 1]

    def stripes(u, v, angle, phase):
        return np.sin(cycles * (np.cos(angle) * u + np.sin(angle) * v) + 2 * np.pi * phase)

    shown = np.where(alpha > 0.5, stripes(*on_shape, angle, draw[:, 18]), stripes(x, y, angle + turn, draw[:, 19]))
    level, contrast = 0.4 + 0.2 * draws[:, None, None, None, 13:16], 0.2 + 0.1 * draws[:, None, None, None, 20:23]
    return (level + contrast * shown[..., None]).astype(np.float32)


def _background(draws: np.ndarray, axis: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Two slow waves around a random colour, another phase per colour, drifting a little: [n F s s 3] in 0.03..0.47."""
    num_clips, num_frames, size = len(draws), len(time), len(axis)
    left, right = [], []  # sin(a + b) = sin a cos b + cos a sin b, a: row and time, b: column and colour
    for wave in (draws[:, :8], draws[:, 8:]):
        kx, ky, drift = ((2 * wave[:, i, None, None] - 1) for i in range(3))
        a = 6 * ky * axis + 1.5 * drift * time[:, None]  # [n F s]
        b = 6 * kx * axis[:, None] + 2 * np.pi * wave[:, None, 3:6]  # [n s 3]
        left += [np.sin(a), np.cos(a)]
        right += [np.cos(b), np.sin(b)]
    left = np.stack(left, axis=-1).reshape(num_clips, num_frames * size, 4)
    right = np.stack(right, axis=1).reshape(num_clips, 4, size * 3)
    total = (left @ right).reshape(num_clips, num_frames, size, size, 3)
    level = 0.13 + 0.24 * draws[:, None, None, None, [6, 7, 14]]
    return level + 0.05 * total
