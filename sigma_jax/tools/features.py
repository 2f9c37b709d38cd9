"""Features of a folder of videos, with time stamps.

  python -m sigma_jax.tools.features --videos=FOLDER --init=WEIGHTS --out=feats
  python -m sigma_jax.tools.features --videos=FOLDER --init=runs/k400 --out=feats --stride=2 --window_step=8 --pool=time

WEIGHTS: anything tools.convert reads. A window is --num_frames frames, --stride apart; the next one begins
--window_step frames later (default: where the last one ended), the last one ends with the video. OUT gets one .npz per
video: features [windows D] (--pool=mean), [windows t D] (time) or [windows tubes D] (none), frames [windows 2] (first,
last) and seconds [windows 2]; features.json says how they were made, failed.jsonl which videos gave none and why. Start
it again after an interruption: finished videos are skipped. Seconds are those of presentation, from the start of the
file (NaN where a video without timestamps states no rate). Long videos are decoded once and neither their pictures nor
their features are held in memory. Exit code 0: there are features; 1: none; 2: wrong usage.
"""

import argparse
import dataclasses
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sigma_jax.data.metadata import damaged, read_json, write_json
from sigma_jax.data.windows import End, Window, WindowSpec, read_windows
from sigma_jax.datasets.listing import Entry, list_folder
from sigma_jax.runtime.command import Command, add_weights_flags, command_parser, leave, positive
from sigma_jax.runtime.config import diff_configs
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.files import replacing
from sigma_jax.runtime.logs import start_logging
from sigma_jax.weights.formats import WHICH
from sigma_jax.weights.frozen import Pretrained, load

POOLS = ("mean", "time", "none")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that the features depend on, beside the model; all files in OUT share them."""

    num_frames: int
    stride: int
    window_step: int
    size: int
    pool: str


class Video:
    """One video on its way: features of windows that were computed so far, on disk in a file without a name."""

    def __init__(self, entry: Entry, out: Path):
        self.entry, self.path = entry, place_of(out, entry)
        self.pending, self.end = 0, None  # windows handed to the model; what ended the video
        self._rows, self._shape = {}, ()  # start -> place in the file; of one row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 - open until write or drop

    def add(self, start: int, row: np.ndarray) -> None:
        """Features of the window that begins at frame `start`, float32; an earlier one of the same start is void."""
        self._rows[start], self._shape = self._file.seek(0, os.SEEK_END), row.shape
        self._file.write(row.astype("<f4").tobytes())

    def write(self) -> None:
        """The video's file; it appears under its name only when complete."""
        size = 4 * math.prod(self._shape)
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self.end.starts), *self._shape)}
        with replacing(self.path) as partial, zipfile.ZipFile(partial, "w") as archive:  # as numpy.savez, row by row
            with archive.open("features.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for start in self.end.starts:
                    self._file.seek(self._rows[start])
                    file.write(self._file.read(size))
            for name in ("frames", "seconds"):
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, getattr(self.end, name))
        self.drop()

    def drop(self) -> None:
        """Deletes the temporary file."""
        self._file.close()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("features", __doc__)
    parser.add_argument("--videos", required=True, type=Path, help="folder of videos; sub-folders are kept")
    parser.add_argument("--init", required=True, help="weights in any format")
    parser.add_argument("--out", required=True, type=Path, help="folder for the features")
    parser.add_argument("--num_frames", type=positive, help="frames in a window (default: as in training)")
    parser.add_argument("--stride", type=positive, help="distance of frames (default: as in training, or 4)")
    parser.add_argument("--window_step", type=positive, help="frames from window to window (default: no overlap)")
    parser.add_argument("--size", type=positive, help="short side and centre crop in pixels (default: as in training)")
    parser.add_argument("--pool", choices=POOLS, default="mean")
    parser.add_argument("--batch_size", type=positive, default=8, help="windows at once (default 8)")
    parser.add_argument("--num_workers", type=positive, default=4, help="decoding threads (default 4)")
    add_weights_flags(parser, WHICH)
    return parser.parse_args(argv)


def features(args: argparse.Namespace) -> int:
    """Extracts features and prints of how many videos."""
    start_logging()
    done, failed = extract_folder(args)
    print(f"{args.out}: {done} videos with features, {failed} without (see failed.jsonl)")
    return 0 if done else 1


def extract_folder(args: argparse.Namespace) -> tuple[int, int]:
    """Writes the features of every video that has none yet; (videos with features, videos without)."""
    if not args.videos.is_dir():
        raise InvalidValue(f"--videos={args.videos} is no folder")
    entries, _ = list_folder(args.videos)
    if not entries:
        raise InvalidValue(f"--videos={args.videos}: no video files in it")
    model = load(args.init, num_heads=args.num_heads, weights=args.weights)
    settings = settings_of(model, args)
    args.out.mkdir(parents=True, exist_ok=True)
    claim(args.out, settings, model, args.init)
    pending = [entry for entry in entries if not place_of(args.out, entry).exists()]
    failed: list[dict] = []
    with tqdm(total=len(entries), initial=len(entries) - len(pending), unit="video", disable=None) as bar:
        for video in run(pending, args.out, settings, feature_fn(model, settings.pool), args):
            if video.end.error is None:
                video.write()
            else:
                failed.append({"key": video.entry.key, "reason": str(video.end.error)})
                video.drop()
            bar.update()
    with replacing(args.out / "failed.jsonl") as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in failed))
    return len(entries) - len(failed), len(failed)


def settings_of(model: Pretrained, args: argparse.Namespace) -> Settings:
    """The command's numbers, completed by the model's."""
    sizes = model.weights.sizes
    num_frames = args.num_frames or sizes.get("num_frames", 16)
    side = args.size or sizes.get("image_size", 224)
    stride = args.stride or model.frame_stride
    span = num_frames * stride
    side = side if isinstance(side, int) else min(side)
    step = args.window_step or span
    return Settings(num_frames, stride, step, side, args.pool)


def claim(out: Path, settings: Settings, model: Pretrained, source: str) -> None:
    """Writes features.json, or checks that the one in OUT has the same settings and model."""
    path, wanted = out / "features.json", {"settings": dataclasses.asdict(settings), "model": model.identity}
    if path.exists():
        found = read_json(path)
        found = {name: found.get(name, {}) for name in wanted}
        for name, value in found.items():
            if not isinstance(value, dict):
                raise damaged(path, f"{name}: {value!r:.200}")
        differing = "; ".join(diff_configs(found, wanted))
        if differing:
            raise InvalidValue(f"{out} holds features made otherwise ({differing}): choose another --out")
    write_json(path, wanted | {"weights": source})


def place_of(out: Path, entry: Entry) -> Path:
    """`a/b.mp4` -> out/a/b.mp4.npz."""
    return out / f"{entry.key}.npz"


def run(
    entries: list[Entry],
    out: Path,
    settings: Settings,
    features: Callable[[np.ndarray], np.ndarray],
    args: argparse.Namespace,
) -> Iterator[Video]:
    """Every video when all of its windows are computed, or when it has failed.

    Windows of all videos fill batches of one size; the last one is padded.
    """
    spec = WindowSpec(settings.num_frames, settings.stride, settings.window_step, settings.size)
    videos: dict[int, Video] = {}
    batch: list[Window] = []

    def compute() -> Iterator[Video]:
        clips = [window.clip for window in batch]
        rows = features(np.stack(clips + clips[-1:] * (args.batch_size - len(clips))))
        for window, row in zip(batch, rows, strict=False):
            videos[window.video].add(window.start, row)
            videos[window.video].pending -= 1
        numbers = {window.video for window in batch}
        batch.clear()
        return ended(numbers)

    def ended(numbers: Iterable[int]) -> Iterator[Video]:
        return (videos.pop(n) for n in sorted(numbers) if n in videos and videos[n].end and not videos[n].pending)

    for result in read_windows([entry.path for entry in entries], spec, args.num_workers):
        video = videos.setdefault(result.video, None) or Video(entries[result.video], out)
        videos[result.video] = video
        if isinstance(result, End):
            video.end = result
            yield from ended([result.video])
            continue
        batch.append(result)
        video.pending += 1
        if len(batch) == args.batch_size:
            yield from compute()
    if batch:
        yield from compute()


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


main = Command("features", parse_arguments, features, after_stop="Finished videos are kept: the same command goes on")

if __name__ == "__main__":
    leave(main())
