"""Features of a folder of videos, with time stamps.

  python -m sigma_jax.tools.features --videos=FOLDER --init=WEIGHTS --out=feats
  python -m sigma_jax.tools.features --videos=FOLDER --init=runs/k400 --out=feats --stride=2 --window_step=8 --pool=time

WEIGHTS: anything tools.convert reads. A window is --num_frames frames, --stride apart; the next one begins
--window_step frames later (default: where the last one ended), the last one ends with the video. OUT gets one .npz per
video: features [windows D] (--pool=mean), [windows t D] (time) or [windows tubes D] (none), frames [windows 2] (first,
last) and seconds [windows 2]; features.json says how they were made, failed.jsonl which videos gave none and why. Start
it again after an interruption: finished videos are skipped. A video is held decoded at the model's size (150 kB per
frame at 224). Exit code 0: there are features; 1: none; 2: wrong usage.
"""

import argparse
import collections
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sigma_jax.data.augment import center_crop_resize
from sigma_jax.data.decode import BadVideo, decode_frames, probe
from sigma_jax.datasets.listing import Entry, list_folder
from sigma_jax.runtime.command import Command, leave
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.logs import start_logging
from sigma_jax.weights.frozen import FRAME_STRIDE, Pretrained, load

POOLS = ("mean", "time", "none")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the numbers in the files; one OUT has one."""

    digest: str
    num_frames: int
    stride: int
    window_step: int
    size: int
    pool: str


@dataclasses.dataclass
class Video:
    """One video on its way: windows that have been computed so far."""

    entry: Entry
    frames: np.ndarray  # int64 [windows F]
    fps: float
    pictures: np.ndarray  # uint8 [n s s 3], every frame that a window needs, once
    picture_of: np.ndarray  # int64 [windows F], numbers of pictures
    rows: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sigma_jax.tools.features", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--videos", required=True, type=Path, help="folder of videos; sub-folders are kept")
    parser.add_argument("--init", required=True, help="weights in any format")
    parser.add_argument("--out", required=True, type=Path, help="folder for the features")
    parser.add_argument("--num_frames", type=int, help="frames in a window (default: those of training)")
    parser.add_argument(
        "--stride", type=int, default=FRAME_STRIDE, help=f"frames between them (default {FRAME_STRIDE})"
    )
    parser.add_argument("--window_step", type=int, help="frames from window to window (default: no overlap)")
    parser.add_argument("--size", type=int, help="short side and centre crop in pixels (default: that of training)")
    parser.add_argument("--pool", choices=POOLS, default="mean")
    parser.add_argument("--batch_size", type=int, default=8, help="windows at once (default 8)")
    parser.add_argument("--num_workers", type=int, default=4, help="decoding threads (default 4)")
    parser.add_argument("--num_heads", type=int, help="where the weights do not say and width / 64 is wrong")
    args = parser.parse_args(argv)
    for name in ("num_frames", "stride", "window_step", "size", "batch_size", "num_workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)}: expected at least 1")
    return args


def features(args: argparse.Namespace) -> int:
    """Extracts, and says how many."""
    start_logging()
    done, failed = extract(args)
    print(f"{args.out}: {done} videos with features, {failed} without (see failed.jsonl)")
    return 0 if done else 1


def extract(args: argparse.Namespace) -> tuple[int, int]:
    """Writes the features of every video that has none yet; (videos with features, videos without)."""
    if not args.videos.is_dir():
        raise InvalidValue(f"--videos={args.videos} is no folder")
    entries, _ = list_folder(args.videos)
    if not entries:
        raise InvalidValue(f"--videos={args.videos}: no video files in it")
    model = load(args.init, num_heads=args.num_heads)
    settings = settings_of(model, args)
    args.out.mkdir(parents=True, exist_ok=True)
    claim(args.out, settings, args.init)
    pending = [entry for entry in entries if not place_of(args.out, entry).exists()]
    failed: list[dict] = []
    with tqdm(total=len(entries), initial=len(entries) - len(pending), unit="video", disable=None) as bar:

        def fail(entry: Entry, error: Exception) -> None:
            failed.append({"key": entry.key, "reason": str(error)})
            bar.update()

        def finish(video: Video) -> None:
            write(args.out, video)
            bar.update()

        videos = prefetched(pending, lambda entry: read_windows(entry, settings), fail, args.num_workers)
        run(videos, feature_fn(model, settings.pool), args.batch_size, finish)
    (args.out / "failed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in failed))
    return len(entries) - len(failed), len(failed)


def settings_of(model: Pretrained, args: argparse.Namespace) -> Settings:
    """The command's numbers, completed by the model's."""
    sizes = model.weights.sizes
    num_frames = args.num_frames or sizes.get("num_frames", 16)
    side = args.size or sizes.get("image_size", 224)
    span = num_frames * args.stride
    side = side if isinstance(side, int) else min(side)
    step = args.window_step or span
    return Settings(model.report.digest, num_frames, args.stride, step, side, args.pool)


def claim(out: Path, settings: Settings, source: str) -> None:
    """Writes features.json, or proves that what is there was made in the same way."""
    path, wanted = out / "features.json", dataclasses.asdict(settings)
    if path.exists():
        found = json.loads(path.read_text())["settings"]
        differing = [
            f"{name}: {found.get(name)} there, {wanted[name]} now" for name in wanted if found.get(name) != wanted[name]
        ]
        if differing:
            raise InvalidValue(f"{out} holds features made otherwise ({'; '.join(differing)}): choose another --out")
    path.write_text(json.dumps({"settings": wanted, "weights": source}, indent=2) + "\n")


def place_of(out: Path, entry: Entry) -> Path:
    """`a/b.mp4` -> out/a/b.mp4.npz."""
    return out / f"{entry.key}.npz"


def window_starts(num_frames_in_video: int, span: int, step: int) -> list[int]:
    """First frames of windows of `span` frames, `step` apart; one more ends with the video where these leave a rest."""
    starts = list(range(0, max(num_frames_in_video - span, 0) + 1, step))
    rest = num_frames_in_video - span - starts[-1]
    return starts + ([num_frames_in_video - span] if rest > 0 else [])


def read_windows(entry: Entry, settings: Settings) -> Video:
    """The windows of a video, decoded; one shorter than a window repeats its last frame.

    Raises:
      BadVideo: it cannot be decoded to its end. OSError: it cannot be read.
    """
    data = entry.path.read_bytes()
    info = probe(data)
    span = (settings.num_frames - 1) * settings.stride + 1
    starts = np.asarray(window_starts(info.num_frames, span, settings.window_step))
    frames = starts[:, None] + np.arange(settings.num_frames) * settings.stride
    frames = np.minimum(frames, info.num_frames - 1)
    needed = np.unique(frames)
    small = []
    for i in range(0, len(needed), 64):  # full-size pictures of 64 frames at a time
        small.append(center_crop_resize(decode_frames(data, needed[i : i + 64], info.num_frames), settings.size))
    return Video(entry, frames, info.fps, np.concatenate(small), np.searchsorted(needed, frames))


def prefetched(
    entries: Iterable[Entry], read: Callable, fail: Callable[[Entry, Exception], None], num_workers: int
) -> Iterator[Video]:
    """`read` of every entry in order, up to 2 * `num_workers` ahead; those that fail are reported and left out."""
    waiting: collections.deque = collections.deque()
    rest = iter(entries)
    with ThreadPoolExecutor(num_workers) as pool:
        while True:
            while len(waiting) < 2 * num_workers and (entry := next(rest, None)) is not None:
                waiting.append((entry, pool.submit(read, entry)))
            if not waiting:
                return
            entry, future = waiting.popleft()
            try:
                yield future.result()
            except (BadVideo, OSError) as error:
                fail(entry, error)


def run(
    videos: Iterable[Video],
    features: Callable[[np.ndarray], np.ndarray],
    batch_size: int,
    finish: Callable[[Video], None],
) -> None:
    """Windows of all videos in batches of one size (the last one padded); `finish` a video when all of it is there."""
    batch: list[tuple[Video, int, np.ndarray]] = []

    def compute() -> None:
        stacked = np.stack([clip for _, _, clip in batch])
        padded = np.concatenate([stacked, np.repeat(stacked[-1:], batch_size - len(batch), axis=0)])
        for (video, number, _), row in zip(batch, features(padded), strict=False):
            video.rows[number] = row
            if len(video.rows) == len(video.frames):
                finish(video)
        batch.clear()

    for video in videos:
        for number, pictures in enumerate(video.picture_of):
            batch.append((video, number, video.pictures[pictures]))
            if len(batch) == batch_size:
                compute()
    if batch:
        compute()


def feature_fn(model: Pretrained, pool: str) -> Callable[[np.ndarray], np.ndarray]:
    """video uint8 [B F y x 3] -> [B D], [B t D] or [B N D] by `pool`, float32."""

    def features(video: np.ndarray) -> np.ndarray:
        if pool == "mean":
            return np.asarray(model.features(video))
        tokens = np.asarray(model.features(video, pool=False))
        if pool == "none":
            return tokens
        steps = video.shape[1] // model.weights.sizes.get("tube_size", (1,))[0]
        return tokens.reshape(len(tokens), steps, -1, tokens.shape[-1]).mean(axis=2)

    return features


def write(out: Path, video: Video) -> None:
    """One video's file; it appears under its name only when complete."""
    path = place_of(out, video.entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    ends = video.frames[:, [0, -1]]
    seconds = ends / video.fps if video.fps else np.full(ends.shape, np.nan)
    with open(partial, "wb") as file:
        np.savez(
            file, features=np.stack([video.rows[i] for i in range(len(video.frames))]), frames=ends, seconds=seconds
        )
    os.replace(partial, path)


main = Command("features", parse_arguments, features, after_stop="Finished videos are kept: the same command goes on")

if __name__ == "__main__":
    leave(main())
