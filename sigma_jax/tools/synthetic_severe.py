"""Renders small versions of SEVERE's counting and multi-label data, and packs them into shards.

    python -m sigma_jax.tools.synthetic_severe --out=DATA/toys [--train=1200] [--val=120]

OUT/cycles: shapes that repeat a motion 2 to 8 times, for configs/severe.py:score=ucf_rc,size=tiny. OUT/pairs: clips
with two labels at once (how, and what), for score=charades,size=tiny. The lists beside the videos have the form of the
released ones. Half a minute on two cores; what is finished is not made again.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from sigma_jax.datasets.prepare_spec import PrepareSpec
from sigma_jax.datasets.preparing import prepare
from sigma_jax.datasets.synthetic_severe import write_cycles, write_pairs
from sigma_jax.runtime.command import Command, command_parser, leave, natural
from sigma_jax.tools.synthetic import is_done

CLIPS = {"train": 1200, "val": 120}
FIRST_CLIP = {"train": 0, "val": 50_000}  # splits never share a clip


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("synthetic_severe", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two data sets")
    for split, count in CLIPS.items():
        parser.add_argument(f"--{split}", type=natural, default=count, metavar="CLIPS")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--workers", type=natural, default=2, help="processes that pack videos; 0: only this one")
    return parser.parse_args(argv)


def synthetic_severe(args: argparse.Namespace) -> int:
    """Renders and packs the splits that are not there."""
    write_toys(args.out, {"train": args.train, "val": args.val}, args.seed, args.workers)
    return 0


def write_toys(out: Path, clips: Mapping[str, int], seed: int = 0, workers: int = 0) -> None:
    """Makes both data sets below `out`, except for splits whose shards are there.

    Args:
      clips: how many of each split of FIRST_CLIP.
      workers: processes that pack videos, 0 for none.
    """
    for split, first in FIRST_CLIP.items():
        rendered = {"seed": seed, "start": first, "count": clips[split]}
        for kind in ("cycles", "pairs"):
            if is_done(out / kind, split):
                print(f"{kind}, {split}: already in {out / kind}")
                continue
            raw = out / kind / "raw" / split
            if kind == "cycles":
                write_cycles(raw, **rendered)
                lists = {"csv": raw / "lists", "format": "ucfrep"}
            else:
                write_pairs(raw, **rendered)
                lists = {"csv": raw / "list.csv", "format": "charades", "labels": raw / "classes.txt"}
            spec = PrepareSpec(out / kind, raw / "videos", name=kind, split=split, workers=workers, **lists)
            prepare(spec, lambda line: print(line, flush=True), main.end_at_once)


main = Command("synthetic_severe", parse, synthetic_severe, after_stop="The same command goes on")

if __name__ == "__main__":
    leave(main())
