"""Draws a model's prototypes (paper, figures 4 and 5) or its reconstruction of hidden tubes, for one video.

  python -m sigma_jax.tools.pictures --video=FILE --init=runs/k400 --out=pictures
  python -m sigma_jax.tools.pictures --video=FILE --init=runs/k400_dino --teacher=dino_b16.npz --out=pictures
  python -m sigma_jax.tools.pictures --video=FILE --init=runs/k400_pixel --kind=reconstruction --out=pictures

--kind=prototypes: around a mosaic of the clip, for each of the most used prototypes the 25 space-time tubes nearest to
it. --kind=reconstruction (models with target=pixel): hidden tubes as predicted, with and without the statistics of the
true ones. Default: what the weights allow. The clip is --num_frames frames around the middle, --stride apart.
Exit code 0: written; 1: refused, with what the weights lack; 2: wrong usage.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sigma_jax.data.decode import BadVideo, decode_frames, probe
from sigma_jax.data.sampling import center_indices
from sigma_jax.report.prototype_tubes import tube_scores, write_prototype_tubes
from sigma_jax.report.reconstruction import reconstruct, write_reconstruction
from sigma_jax.runtime.command import Command, add_weights_flags, command_parser, leave, natural, positive
from sigma_jax.runtime.errors import InvalidValue, NotThere
from sigma_jax.runtime.logs import start_logging
from sigma_jax.weights.formats import WHICH
from sigma_jax.weights.frozen import Pretrained, load

KINDS = ("prototypes", "reconstruction")
CAPTIONS = {
    "prototypes": "the 25 tubes nearest to each of its most used prototypes.",
    "reconstruction": "hidden tubes as predicted, with and without the true ones' mean and deviation.",
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("pictures", __doc__)
    parser.add_argument("--video", required=True, type=Path, help="a video file")
    parser.add_argument("--kind", choices=KINDS, help="default: what the weights allow")
    parser.add_argument("--init", required=True, help="pre-training weights in any format, or a run folder")
    parser.add_argument("--teacher", help="weights of the frozen teacher, for SIGMA-DINO")
    parser.add_argument("--out", required=True, type=Path, help="folder for the pictures")
    parser.add_argument("--prototypes", type=int, default=7, help="prototypes to draw (default 7, as in the paper)")
    parser.add_argument("--num_frames", type=positive, help="frames of the clip (default: as in training)")
    parser.add_argument("--stride", type=positive, help="distance of frames (default: as in training, or 4)")
    parser.add_argument(
        "--mask_ratio", type=float, default=0.9, help="share of hidden tubes of a reconstruction (default .9)"
    )
    parser.add_argument("--seed", type=natural, default=0, help="seed of the mask (default 0)")
    parser.add_argument(
        "--raw_pixels", action="store_true", help="the model was trained on pixels without normalisation per tube"
    )
    add_weights_flags(parser, WHICH, decoder=True)
    return parser.parse_args(argv)


def pictures(args: argparse.Namespace) -> int:
    """Draws one picture and says where it is."""
    start_logging()
    model = load(args.init, num_heads=args.num_heads, decoder_num_heads=args.decoder_num_heads, weights=args.weights)
    clip = read_clip(args.video, model, args.num_frames, args.stride)
    kind = args.kind or picture_of(model)
    teacher = load(args.teacher) if args.teacher else None
    options = {"seed": args.seed, "mask_ratio": args.mask_ratio, "standardized": not args.raw_pixels}
    if kind == "prototypes":
        options = {"max_prototypes": args.prototypes}
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InvalidValue(f"--out={args.out} is a file; expected a folder") from error
    path = draw(model, clip, args.out / f"{args.video.stem}_{kind}.png", kind, teacher=teacher, options=options)
    print(f"{path}: {kind} of {args.video}")
    return 0


def picture_of(model: Pretrained) -> str:
    """The picture that the weights allow."""
    return "prototypes" if "prototypes" in model.params else "reconstruction"


def draw(
    model: Pretrained,
    clip: np.ndarray,
    path: Path,
    kind: str,
    *,
    teacher: Pretrained | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the picture of a clip uint8 [1 F y x 3].

    Args:
      options: of `write_prototype_tubes` or `reconstruct`.

    Raises:
      InvalidValue: the weights do not allow it; says what they lack.
    """
    if kind == "reconstruction":
        return write_reconstruction(path, reconstruct(model, clip, **options or {}))
    scores = tube_scores(model, clip, teacher)
    return write_prototype_tubes(path, clip[0], scores, tuple(model.weights.sizes["tube_size"]), **options or {})


def read_clip(path: Path, model: Pretrained, num_frames: int | None = None, stride: int | None = None) -> np.ndarray:
    """The clip in the middle of a video file, uint8 [1 F y x 3].

    Raises:
      NotThere, BadVideo: no such file, or no video in it.
    """
    if not path.is_file():
        raise NotThere(f"--video={path} is no file")
    data = path.read_bytes()
    num_frames = num_frames or model.weights.sizes.get("num_frames", 16)
    try:
        count = probe(data).num_frames
        frames = decode_frames(data, center_indices(count, num_frames, stride or model.frame_stride), count)
    except BadVideo as error:
        raise BadVideo(f"{path}: {error}") from error
    return model.preprocess(frames, num_frames, 1)


main = Command("pictures", parse_arguments, pictures)

if __name__ == "__main__":
    leave(main())
