"""Videos -> checked TFRecord shards, with a report of what was refused and why.

  python -m sigma_jax.tools.prepare --videos=FOLDER --out=DIR
  python -m sigma_jax.tools.prepare --videos=FOLDER --csv=train.csv --out=DIR --split=train --shards=64 --payload=jpeg
  python -m sigma_jax.tools.prepare --videos=FOLDER --csv=train.csv --format=kinetics --name=k400 --out=DIR

A folder's sub-folders are its classes, and folders called train, val or test above or below them its splits; a csv has
one video and its label a line, other lists: datasets/list_formats.py. Every video is decoded to its end. The same
command again continues a killed one. The shards depend on the videos, the payload and the number of shards only. Exit
code 0: shards are there; 1: nothing usable, or more refused than --max_refused; 2: wrong usage or no room on the disk;
130: stopped from the keyboard.
"""

import argparse
import os
from pathlib import Path

from sigma_jax.datasets.list_formats import FORMATS
from sigma_jax.datasets.listing import LAYOUTS
from sigma_jax.datasets.numbering import LABELS_ARE
from sigma_jax.datasets.payload import PAYLOADS, Payload
from sigma_jax.datasets.prepare_spec import MAX_REFUSED, PrepareSpec
from sigma_jax.datasets.preparing import TooManyRefused, prepare
from sigma_jax.datasets.subsets import SUBSETS
from sigma_jax.runtime.command import Command, command_parser, leave
from sigma_jax.runtime.errors import UserError


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("prepare", __doc__)
    parser.add_argument("--videos", type=Path, help="folder of videos (with --csv: what its paths are relative to)")
    parser.add_argument("--csv", type=Path, help="list of videos and labels, see --format")
    parser.add_argument(
        "--format", default="csv", choices=sorted(FORMATS), help="format of the list (datasets/list_formats.py)"
    )
    parser.add_argument("--labels", type=Path, help="file of class names in order, one a line")
    parser.add_argument("--subset", default="", choices=["", *SUBSETS], help="part of a list that SEVERE trains on")
    parser.add_argument(
        "--labels_are", default="auto", choices=LABELS_ARE, help="whether the labels of a list are names or numbers"
    )
    parser.add_argument(
        "--layout",
        default="auto",
        choices=LAYOUTS,
        help="whether the folders of --videos are splits, classes or neither",
    )
    parser.add_argument(
        "--payload",
        default="video",
        choices=PAYLOADS,
        help="how a video is stored: the file, a smaller video, or JPEG frames",
    )
    parser.add_argument("--short_side", type=int, default=256, help="pixels, for video-small and jpeg; never enlarged")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality, 1 to 100")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--name", help="name of the data set, part of the file names; default: the subset's, or videos")
    parser.add_argument("--split", default="", help="default: train, or all splits that folders or the list name")
    parser.add_argument("--val_fraction", type=float, default=0.0, help="share of the videos put into a split `val`")
    parser.add_argument(
        "--max_refused", type=float, default=MAX_REFUSED, help="largest share of refused videos; 1: any"
    )
    parser.add_argument("--shards", type=int, default=0, help="shards per split; 0: by size")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; 0: this one, without --timeout"
    )
    parser.add_argument("--runner", default="local", help="local, or one of Apache Beam: DirectRunner, ...")
    parser.add_argument("--beam_options", default="", help="Beam's own flags, in one argument")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one video")
    args = parser.parse_args(argv)
    args.name = args.name or args.subset or "videos"
    return args


def run(args: argparse.Namespace) -> int:
    """Prepares what the flags say; returns the exit status."""
    values = vars(args)
    payload = Payload(values.pop("payload"), values.pop("short_side"), values.pop("quality"))
    report = prepare(PrepareSpec(payload=payload, **values), lambda line: print(line, flush=True), main.end_at_once)
    return 0 if all(split["videos"] for split in report.values()) else 1


main = Command(
    "prepare",
    parse_arguments,
    run,
    statuses={TooManyRefused: 1, UserError: 2},
    after_stop="Finished shards are kept: the same command goes on",
)

if __name__ == "__main__":
    leave(main())
