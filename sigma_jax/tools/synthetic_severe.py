"""Renders small versions of SEVERE's counting and multi-label data, and packs them into shards.

    python -m sigma_jax.tools.synthetic_severe --out=DATA/toys [--train=1200] [--val=120]

OUT/cycles: shapes that repeat a motion 2 to 8 times, for configs/severe.py:score=ucf_rc,size=tiny. OUT/pairs: clips
with two labels at once (how, and what), for score=charades,size=tiny. The lists beside the videos have the form of the
released ones. Half a minute on two cores; what is finished is not made again.
"""

import argparse
from pathlib import Path

from sigma_jax.datasets.synthetic_severe import write_cycles, write_pairs
from sigma_jax.runtime.command import Command, command_parser, leave
from sigma_jax.tools import prepare
from sigma_jax.tools.synthetic import is_done

FIRST_CLIP = {"train": 0, "val": 50_000}  # splits never share a clip


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("synthetic_severe", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two data sets")
    parser.add_argument("--train", type=int, default=1200, metavar="CLIPS")
    parser.add_argument("--val", type=int, default=120, metavar="CLIPS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that pack videos; 0: none")
    return parser.parse_args(argv)


def synthetic_severe(args: argparse.Namespace) -> int:
    """Renders and packs the splits that are not there."""
    for split, first in FIRST_CLIP.items():
        clips = {"seed": args.seed, "start": first, "count": getattr(args, split)}
        for kind in ("cycles", "pairs"):
            out = args.out / kind
            if is_done(out, split):
                print(f"{kind}, {split}: already in {out}")
                continue
            raw = out / "raw" / split
            if kind == "cycles":
                write_cycles(raw, **clips)
                lists = [f"--csv={raw / 'lists'}", "--format=ucfrep"]
            else:
                write_pairs(raw, **clips)
                lists = [f"--csv={raw / 'list.csv'}", "--format=charades", f"--labels={raw / 'classes.txt'}"]
            command = [f"--videos={raw / 'videos'}", f"--out={out}", f"--name={kind}", f"--split={split}"]
            status = prepare.main([*command, *lists, f"--workers={args.workers}"])
            if status:
                return status
    return 0


main = Command("synthetic_severe", parse, synthetic_severe, after_stop="The same command goes on")

if __name__ == "__main__":
    leave(main())
