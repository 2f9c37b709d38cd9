"""Renders the labelled motion set to video files and packs them into shards: the data of configs/demo.py.

    python -m sigma_jax.tools.synthetic --out=DATA/shapes [--train=14000] [--bank=3500] [--val=2000] [--test=0] \\
        [--masked=64] [--camouflage] [--workers=2]

Splits: train (no labels), bank, val and test (labels `<motion>-<shape>`); one of 0 clips is not made. Videos stay in
OUT/videos; finished splits are not made again. OUT/segmentation holds --masked clips with masks of the shapes
(frames/CLIP/, masks/CLIP/), for the segmentation monitor and tools.segment. About 40 seconds on two cores. With
--camouflage shapes and background have the same colours and differ in the direction of their stripes and in motion.
"""

import argparse
import dataclasses
import os
from pathlib import Path

from sigma_jax.data.records import DataSetError, find_shards
from sigma_jax.datasets.prepare_spec import PrepareSpec
from sigma_jax.datasets.preparing import prepare
from sigma_jax.datasets.synthetic import MOTIONS, SHAPES, renderers, write_sequences, write_videos
from sigma_jax.runtime.command import Command, command_parser, leave, natural
from sigma_jax.runtime.errors import InvalidValue

# clip numbers: splits never share a clip
FIRST_CLIP = {"train": 0, "bank": 1_000_000, "val": 2_000_000, "test": 3_000_000}
MASKED, FIRST_MASKED = "segmentation", 4_000_000
CAMOUFLAGED = "camouflaged"  # an empty file of this name marks a folder of such clips
CLIPS_PER_SHARD = 1000  # one process writes a shard, so the smallest split keeps two processes busy


def is_done(out: Path, split: str) -> bool:
    """Whether the shards of a split are there."""
    try:
        return bool(find_shards(out, split))
    except DataSetError:
        return False


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("synthetic", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    for split, count in (("train", 14000), ("bank", 3500), ("val", 2000), ("test", 0)):
        parser.add_argument(f"--{split}", type=natural, default=count, metavar="CLIPS")
    parser.add_argument("--masked", type=natural, default=64, metavar="CLIPS", help="clips with masks")
    parser.add_argument("--seed", type=natural, default=0)
    workers = "processes that render and pack videos; 0: only this one"
    parser.add_argument("--workers", type=natural, default=os.cpu_count() or 1, help=workers)
    parser.add_argument("--camouflage", action="store_true", help="stripes instead of bright shapes")
    return parser.parse_args(argv)


def synthetic(args: argparse.Namespace) -> int:
    """Renders and packs the splits that are not there, and the clips with masks."""
    check_style(args)
    how = {"seed": args.seed, "camouflage": args.camouflage}
    if args.masked and not (args.out / MASKED).is_dir():
        write_sequences(args.out / MASKED, start=FIRST_MASKED, count=args.masked, **how)
    with renderers(args.workers) as pool:
        for split, first in FIRST_CLIP.items():
            if is_done(args.out, split):
                print(f"{split}: already in {args.out}")
                continue
            videos, count = args.out / "videos" / split, getattr(args, split)
            if not count:
                continue
            write_videos(videos, start=first, count=count, labelled=split != "train", pool=pool, **how)
            shards = -(-count // CLIPS_PER_SHARD)
            spec = PrepareSpec(args.out, videos, name="shapes", split=split, shards=shards, workers=args.workers)
            if split != "train":  # a small split may lack classes; the numbers of the others stay the same
                spec = dataclasses.replace(spec, labels=_write_classes(args.out / "videos" / "classes.txt"))
            prepare(spec, lambda line: print(line, flush=True), main.end_at_once)
    return 0


def check_style(args: argparse.Namespace) -> None:
    """Camouflaged and ordinary clips in one folder are refused; a camouflaged folder is marked before it is filled.

    Raises:
      InvalidValue: OUT holds clips of the other kind.
    """
    mark = args.out / CAMOUFLAGED
    has_clips = (args.out / MASKED).is_dir() or any(is_done(args.out, split) for split in FIRST_CLIP)
    if mark.exists() != args.camouflage and (mark.exists() or has_clips):
        there = "camouflaged" if mark.exists() else "ordinary"
        raise InvalidValue(f"{args.out} holds {there} clips: choose another --out, or {_other(args.camouflage)}")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.camouflage:
        mark.touch()


def _other(camouflage: bool) -> str:
    return "leave --camouflage out" if camouflage else "pass --camouflage"


def _write_classes(path: Path) -> Path:
    """The names of all classes, in the order of their numbers."""
    names = sorted(f"{motion}-{shape}" for motion in MOTIONS for shape in SHAPES)
    path.write_text("".join(f"{name}\n" for name in names))
    return path


main = Command("synthetic", parse_arguments, synthetic, after_stop="The same command goes on")

if __name__ == "__main__":
    leave(main())
