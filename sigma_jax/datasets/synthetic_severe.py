"""Small versions of SEVERE's two other tasks: shapes that repeat a motion, and clips with two labels at once.

Lists are written in the form of the released ones (UCFRep's raw lists, Charades' csv), so that `prepare` reads them in
the same way. Clip i depends on the seed and i only.

Letters: F frames, s side in pixels, c cycles.
"""

from pathlib import Path

import numpy as np

from sigma_jax.datasets.synthetic import MOTIONS, NOISE, SHAPES, encode, paint, render_clips

REPEATED = ("Sway", "Bounce", "Orbit", "Pulse")
COUNTS = range(2, 9)
PERIODS = (6, 14)  # frames of a cycle, the shortest and the longest
LABELS = MOTIONS + SHAPES  # a clip with two labels has one of each


def render_cycles(seed: int, number: int, size: int = 32) -> tuple[np.ndarray, np.ndarray, str]:
    """Clip `number`: (video uint8 [F s s 3], boundaries int [c + 1] from 0, name of the motion).

    Cycles of a clip differ by up to a tenth in length; before and after them the shape stands still for a few frames.
    """
    rng = np.random.default_rng((seed, number, 7))
    count, period = int(rng.choice(COUNTS)), rng.uniform(*PERIODS)
    lengths = np.maximum(np.rint(period * rng.uniform(0.9, 1.1, count)), 4).astype(int)
    lead, trail = rng.integers(0, 5, 2)
    bounds = lead + np.concatenate([[0], np.cumsum(lengths)])
    frames = np.arange(bounds[-1] + 1 + trail)
    phase = np.interp(frames, bounds, np.arange(count + 1))  # stands still outside
    motion = int(rng.integers(len(REPEATED)))
    draws = rng.random((1, 32), dtype=np.float32)
    path, shape = _repeated_path(REPEATED[motion], phase, rng), np.array([rng.integers(len(SHAPES))])
    (video,), _ = paint(path, shape, draws, size)
    video = video + NOISE * rng.standard_normal(video.shape, dtype=np.float32)
    return np.clip(video * 255 + 0.5, 0, 255).astype(np.uint8), bounds, REPEATED[motion]


def _repeated_path(motion: str, phase: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Centre x, y, angle and radius, each [1 F]."""
    turn = (2 * np.pi * phase)[None].astype(np.float32)
    cx, cy, angle, radius, reach = (
        np.full_like(turn, rng.uniform(low, high))
        for low, high in ((0.42, 0.58), (0.42, 0.58), (-0.3, 0.3), (0.14, 0.2), (0.14, 0.24))
    )
    if motion in ("Sway", "Orbit"):
        cx = cx + reach * np.cos(turn)
    if motion == "Bounce":
        cy = cy + reach * np.cos(turn)
    if motion == "Orbit":
        cy = cy + reach * np.sin(turn)
    if motion == "Pulse":
        radius = radius * np.exp(0.45 * np.cos(turn))
    return cx, cy, angle, radius


def write_cycles(out_dir: Path, *, seed: int, start: int, count: int, size: int = 32) -> None:
    """Videos `v_<Motion>_gNN_cNNNNN.mp4` in OUT/videos, and raw lists `<Motion>.txt` in OUT/lists."""
    videos, lists = out_dir / "videos", out_dir / "lists"
    for folder in (videos, lists):
        folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {motion: [] for motion in REPEATED}
    for number in range(start, start + count):
        video, bounds, motion = render_cycles(seed, number, size)
        name = f"v_{motion}_g01_c{number:05d}"
        encode(video[None], [videos / f"{name}.mp4"])
        lines[motion] += [name, " ".join(str(bound + 1) for bound in bounds)]
    for motion, text in lines.items():
        (lists / f"{motion}.txt").write_text("".join(f"{line}\n" for line in text))


def write_pairs(out_dir: Path, *, seed: int, start: int, count: int, num_frames: int = 8, size: int = 32) -> None:
    """Videos `<number>.mp4` in OUT/videos, OUT/list.csv with two actions each, class names in OUT/classes.txt."""
    (out_dir / "videos").mkdir(parents=True, exist_ok=True)
    videos, motion, shape = render_clips(seed, start, count, num_frames, size)
    names = [f"{number:06d}" for number in range(start, start + count)]
    encode(videos, [out_dir / "videos" / f"{name}.mp4" for name in names])
    rows = [
        f"{name},c{m:03d} 0.00 {num_frames:.2f};c{len(MOTIONS) + s:03d} 0.00 {num_frames:.2f}"
        for name, m, s in zip(names, motion, shape, strict=True)
    ]
    (out_dir / "list.csv").write_text("\n".join(["id,actions", *rows]) + "\n")
    (out_dir / "classes.txt").write_text("".join(f"c{number:03d} {name}\n" for number, name in enumerate(LABELS)))
