"""The frozen evaluation of V-JEPA 2: a grid of attentive probes on stored tokens at once, the best on val reported.

    python -m sigma_jax.tools.probe_attentive --init=runs/k400 --data_dir=DATA/ssv2 --sampling=uniform --out=probe
    python -m sigma_jax.tools.probe_attentive --init=runs/k400 --data_dir=DATA/ucf101 --num_segments=2 --num_crops=3 \\
        --few_shot=5 --out=probe5

Tokens of every clip are computed once and kept in --cache (float16: 2.4 MB a clip of 16 x 224 x 224 with ViT-B); then
learning_rates x weight_decays probes (4 blocks of 16 heads each) train side by side on the same batches. One is chosen
on --val_split, or on a tenth of the training videos held out where there is none, and measured once on --test_split;
OUT/result.json has the whole grid. --multi_label=FILE (lines `key label label ...`) trains with binary cross-entropy
and reports mAP; --few_shot=K takes K training videos per class, once for every seed.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from sigma_jax.data.finetune_augment import ViewCrop
from sigma_jax.data.identity import identify
from sigma_jax.data.labelled import LabelledSpec
from sigma_jax.data.loader import LoaderSpec, OnePass, open_loader
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.data.source import open_source
from sigma_jax.datasets.classes import read_classes
from sigma_jax.evals.attentive_grid import GridSettings, TokenSet, attentive_grid, few_shot, training_flops
from sigma_jax.evals.token_cache import CachedTokens, Views, cached_tokens
from sigma_jax.models.compute import Compute
from sigma_jax.runtime.command import Command, WrongUsage, add_weights_flags, command_parser, leave
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.files import replacing
from sigma_jax.runtime.logs import start_logging
from sigma_jax.weights.formats import WHICH
from sigma_jax.weights.frozen import Pretrained, load

HELD_OUT = 10  # without a val split every tenth training video chooses the head
DEFAULTS = GridSettings()


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("probe_attentive", __doc__)
    parser.add_argument("--init", required=True, help="run folder, checkpoint or file of weights")
    parser.add_argument("--data_dir", required=True, help="labelled shards or images")
    parser.add_argument("--out", required=True, type=Path, help="folder for result.json")
    parser.add_argument("--train_split", default="train")
    parser.add_argument("--val_split", help="split that chooses the head (default: a tenth of train)")
    parser.add_argument("--test_split", default="val", help="split that the chosen head is measured on")
    parser.add_argument("--cache", type=Path, default=Path("tokens"), help="folder of the stored tokens")
    parser.add_argument(
        "--sampling", choices=("dense", "uniform"), default="dense", help="how frames are chosen; uniform for SSv2"
    )
    parser.add_argument("--frame_stride", type=int, default=4, help="frames between two, dense sampling")
    parser.add_argument(
        "--num_segments", type=int, default=1, help="clips along time, which one query attends to together"
    )
    parser.add_argument("--num_crops", type=int, default=1, help="crops of a clip, whose probabilities are averaged")
    parser.add_argument("--clips_per_pass", type=int, default=16, help="clips per forward pass of the encoder")
    parser.add_argument("--learning_rates", type=_floats, default=DEFAULTS.learning_rates)
    parser.add_argument("--weight_decays", type=_floats, default=DEFAULTS.weight_decays)
    parser.add_argument("--epochs", type=int, default=DEFAULTS.epochs)
    parser.add_argument(
        "--warmup", type=float, default=DEFAULTS.warmup, help="share of the steps with rising learning rate"
    )
    parser.add_argument("--batch_size", type=int, default=DEFAULTS.batch_size, help="clips per step of the heads")
    parser.add_argument("--depth", type=int, default=DEFAULTS.depth, help="blocks of a head")
    parser.add_argument("--probe_heads", type=int, default=DEFAULTS.num_heads, help="attention heads of a head")
    parser.add_argument("--heads_at_once", type=int, default=0, help="heads computed side by side; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--multi_label", type=Path, help="file of `key label label ...` lines")
    parser.add_argument("--few_shot", type=int, default=0, help="training videos per class; 0: all")
    parser.add_argument(
        "--few_shot_seeds",
        type=_integers,
        default=(0, 1, 2),
        help="seeds that choose the videos of --few_shot (default 0,1,2)",
    )
    add_weights_flags(parser, WHICH)
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")
    args = parser.parse_args(argv)
    for name in ("num_segments", "num_crops", "clips_per_pass"):
        if getattr(args, name) < 1:
            raise WrongUsage(f"--{name}={getattr(args, name)}: expected at least 1")
    return args


def probe(args: argparse.Namespace) -> int:
    """Computes or finds the tokens of all splits, trains the grid, writes and prints what it found."""
    start_logging()
    dtype = jnp.bfloat16 if args.bfloat16 else jnp.float32
    settings = grid_settings(args, dtype)
    model = load(args.init, num_heads=args.num_heads, weights=args.weights, compute=Compute(dtype=dtype))
    classes = read_classes(args.data_dir, args.train_split).num_classes
    names = [name for name in dict.fromkeys((args.train_split, args.val_split, args.test_split)) if name]
    found = {name: split_tokens(args, model, classes, name) for name in names}
    labels = read_label_lists(args.multi_label) if args.multi_label else None
    num_classes = classes if labels is None else 1 + max(max(numbers) for numbers in labels.values() if numbers)
    sets = {name: token_set(cached, labels, num_classes, args.multi_label) for name, cached in found.items()}
    train, val = choose_val(args, sets)
    test = sets[args.test_split] if args.test_split != args.val_split else None
    print(forecast(settings, args.few_shot * num_classes or len(train.labels), train.tokens.shape[2:]), flush=True)
    if args.few_shot:
        result = few_shot((train, val, test), num_classes, settings, args.few_shot, args.few_shot_seeds)
    else:
        result = attentive_grid(train, val, num_classes, settings, test)
    parts = {"train": train, "val": val, "test": test}
    about = {
        "weights": model.weights.digest(),
        "weights_file": args.init,
        "data_dir": str(args.data_dir),
        "splits": {"train": args.train_split, "val": args.val_split or f"every {HELD_OUT}th of train"}
        | ({"test": args.test_split} if test is not None else {}),
        "clips": {name: len(part.labels) for name, part in parts.items() if part is not None},
        "unreadable": {name: len(cached.unreadable) for name, cached in found.items()},
        "settings": dataclasses.asdict(settings) | {"dtype": str(jnp.dtype(dtype))},
        "view": view_of(args, model),
        "decisions": ["not in the SIGMA paper: head, grid and schedule are V-JEPA 2's; views are not random"],
    }
    path = args.out / "result.json"
    args.out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(about | result, indent=1) + "\n")
    print(summary(result, settings))
    print(path)
    return 0


def forecast(settings: GridSettings, num_clips: int, token_shape: tuple[int, int]) -> str:
    """What training will cost, before it begins."""
    total, blocks = training_flops(settings, num_clips, token_shape)
    text = f"{len(settings.pairs)} heads of depth {settings.depth}, {num_clips} clips of {token_shape[0]} tokens, "
    text += f"{settings.epochs} epochs: {total / 1e12:.3g} TFLOP to train (forecast)"
    if blocks:
        text += f", {100 * blocks / total:.0f} % of it blocks over all tokens of each head; --depth=1 has none"
    return text


def grid_settings(args: argparse.Namespace, dtype: DTypeLike) -> GridSettings:
    """The settings of the grid, from the flags."""
    names = ("learning_rates", "weight_decays", "epochs", "warmup", "batch_size", "depth", "seed", "heads_at_once")
    same = {name: getattr(args, name) for name in names}
    return GridSettings(**same, num_heads=args.probe_heads, multi_label=args.multi_label is not None, dtype=dtype)


def view_of(args: argparse.Namespace, model: Pretrained) -> dict[str, Any]:
    """The clips that are cut out of a video."""
    sizes = model.weights.sizes
    return {
        "sampling": args.sampling,
        "num_frames": sizes.get("num_frames", 16),
        "frame_stride": args.frame_stride,
        "image_size": sizes.get("image_size", 224),
        "num_segments": args.num_segments,
        "num_crops": args.num_crops,
        "bfloat16": args.bfloat16,
    }


def split_tokens(args: argparse.Namespace, model: Pretrained, num_classes: int, split: str) -> CachedTokens:
    """The tokens of one split, from the cache where they are there."""
    view = view_of(args, model)
    sampling = FrameSampling(args.sampling, view["num_frames"], args.frame_stride)
    crops = ViewCrop(args.num_crops)
    spec = LabelledSpec(sampling, view["image_size"], num_classes, crops=crops, num_views=args.num_segments)
    source = open_source(args.data_dir, split)
    made_of = {"weights": model.weights.digest(), "view": view, "split": split, "data": identify(source)}

    def batches():
        return open_loader(LoaderSpec(args.data_dir, split, spec, OnePass(True), args.clips_per_pass))

    views = Views(len(source), args.num_segments, args.num_crops)
    return cached_tokens(args.cache, made_of, lambda video: model.features(video, pool=False), batches, views)


def read_label_lists(path: Path) -> dict[str, list[int]]:
    """key -> numbers of its classes, from lines `key label label ...`.

    Raises:
      InvalidValue: a line of another form, or a file without labels.
    """
    lists = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip():
            key, *labels = line.split()
            try:
                lists[key] = [int(label) for label in labels]
            except ValueError as error:
                raise InvalidValue(f"{path}:{number}: {line!r}; expected `key label label ...`") from error
    if not any(lists.values()):
        raise InvalidValue(f"{path} has no label")
    return lists


def token_set(
    cached: CachedTokens, lists: dict[str, list[int]] | None, num_classes: int, path: Path | None
) -> TokenSet:
    """Tokens with their labels, or with those of --multi_label."""
    if lists is None:
        return TokenSet(cached.tokens, cached.labels)
    unknown = [key for key in cached.keys if key not in lists]
    if unknown:
        raise InvalidValue(f"{path} has no line for {unknown[0]!r} and {len(unknown) - 1} other videos")
    labels = np.zeros((len(cached.keys), num_classes), np.uint8)
    for row, key in enumerate(cached.keys):
        labels[row, lists[key]] = 1
    return TokenSet(cached.tokens, labels)


def choose_val(args: argparse.Namespace, sets: dict[str, TokenSet]) -> tuple[TokenSet, TokenSet]:
    """(train, val): the splits, or every tenth video of train held out."""
    train = sets[args.train_split]
    if args.val_split:
        return train, sets[args.val_split]
    rows = np.arange(len(train.labels))
    is_held_out = rows % HELD_OUT == HELD_OUT - 1
    if not is_held_out.any():
        raise InvalidValue(f"{len(rows)} training videos are too few to hold some out: pass --val_split")
    return train.rows(rows[~is_held_out]), train.rows(rows[is_held_out])


def summary(result: dict[str, Any], settings: GridSettings) -> str:
    """The grid on val as a table, and the chosen head; of few shots the mean."""
    if "runs" in result:
        return (
            f"{result['shots']} videos per class, seeds {result['seeds']}: {settings.metric} "
            f"{result['mean']:.1f} +- {result['spread']:.1f} on {result['measured_on']}"
        )
    lines = [f"{settings.metric} on val", "lr \\ wd " + "".join(f"{decay:>8g}" for decay in settings.weight_decays)]
    for rate in settings.learning_rates:
        row = [entry["val"] for entry in result["grid"] if entry["learning_rate"] == rate]
        lines.append(f"{rate:<8g}" + "".join("diverged" if score is None else f"{score:8.1f}" for score in row))
    chosen = result["chosen"]
    test = f", test {chosen['test']:.1f}" if "test" in chosen else ""
    lines.append(
        f"chosen: lr {chosen['learning_rate']:g}, wd {chosen['weight_decay']:g}: val {chosen['val']:.1f}{test}"
    )
    return "\n".join(lines)


main = Command("probe_attentive", parse_arguments, probe)

if __name__ == "__main__":
    leave(main())
