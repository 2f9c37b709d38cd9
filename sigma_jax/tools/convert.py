"""Converts weights from one format to another; every tensor must fit, none is skipped silently.

  python -m sigma_jax.tools.convert IN OUT
  python -m sigma_jax.tools.convert dino_vitbase16_pretrain.pth dino_b16.npz
  python -m sigma_jax.tools.convert runs/k400 sigma_b_hf --to=hf

IN: a .pth (SIGMA, VideoMAE, DINO, DINOv2), a Hugging Face folder or one file of it (VideoMAE, DINOv2), a run folder or
checkpoint of ours, an .npz of ours. OUT: .npz (ours), .pth (the authors' names), a folder with --to=hf or --to=orbax.
Exit code 0: written and read back equal; 1: refused, with the reason; 2: wrong usage.
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from sigma_jax.runtime.command import Command, add_weights_flags, command_parser, leave, positive
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.weights.facts import RECORDED
from sigma_jax.weights.formats import FORMATS, WHICH, describe, read_weights, write_weights
from sigma_jax.weights.frozen import check
from sigma_jax.weights.weights_file import Weights

SUFFIXES = {".npz": "npz", ".pth": "pth", ".pt": "pth", ".bin": "pth"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("convert", __doc__)
    parser.add_argument("source", metavar="IN")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--from", dest="form", choices=FORMATS, help="format of IN (default: detected)")
    parser.add_argument("--to", choices=FORMATS, help="format of OUT (default: by its suffix)")
    parser.add_argument("--num_frames", type=positive, help="frames of training, where IN does not say (default 16)")
    parser.add_argument("--image_size", type=positive, help="pixels of training, where IN does not say (default 224)")
    add_weights_flags(parser, WHICH, decoder=True)
    args = parser.parse_args(argv)
    args.to = args.to or SUFFIXES.get(Path(args.out).suffix)
    if args.to is None:
        parser.error(f"{args.out} has none of the suffixes {', '.join(SUFFIXES)}: add --to=hf or --to=orbax")
    return args


def convert(args: argparse.Namespace) -> int:
    """Reads, checks against the model, writes, reads back.

    Raises:
      ValueError, OSError: what is wrong with IN, or with OUT once it was read back.
    """
    start = time.perf_counter()
    heads = {"num_heads": args.num_heads, "decoder_num_heads": args.decoder_num_heads}
    weights = read_weights(args.source, form=args.form, which=args.weights, **heads)
    weights = with_clip(weights, {"num_frames": args.num_frames, "image_size": args.image_size})
    report = check(weights)
    print("\n".join(report.lines()))
    print(f"  {describe(weights)}")
    notes = write_weights(args.out, weights, args.to)
    for note in notes:
        print(f"  note: {note}")
    said = facts_of(weights)
    del weights  # one copy in memory at a time
    back = read_weights(args.out, form=args.to, **{name: said.get(name) for name in heads})
    if not notes and args.to != "pth" and back.digest() != report.digest:
        raise InvalidValue(f"{args.out} does not read back as it was written: the disk or this program is broken")
    lost = [name for name, value in said.items() if back.sizes.get(name) != value]
    if lost:
        print(f"  note: {args.out} does not say {', '.join(f'{name} ({said[name]})' for name in lost)}")
    seconds = time.perf_counter() - start
    print(f"{args.out}: {args.to}, {_size(Path(args.out)):,} bytes, content {back.digest()}, {seconds:.1f} s")
    return 0


def facts_of(weights: Weights) -> dict[str, Any]:
    """Facts that the weights record beside their arrays."""
    return {name: weights.sizes[name] for name in RECORDED if name in weights.sizes and name not in weights.assumed}


def with_clip(weights: Weights, clip: dict[str, int | None]) -> Weights:
    """Weights with the frames and the size of training that the user says because the file does not."""
    given = {name: number for name, number in clip.items() if number is not None}
    for name in given:
        if name not in weights.assumed:
            there = f"says {name}={weights.sizes[name]}" if name in weights.sizes else f"is a {weights.kind}"
            raise InvalidValue(f"{weights.source} {there}: --{name} is for video files that do not say it")
    assumed = tuple(name for name in weights.assumed if name not in given)
    return dataclasses.replace(weights, sizes=weights.sizes | given, assumed=assumed)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    return sum(file.stat().st_size for file in files)


main = Command("convert", parse_arguments, convert)

if __name__ == "__main__":
    leave(main())
