"""The frozen evaluation of V-JEPA 2: a grid of attentive probes on stored tokens at once, the best on val reported.

    python -m sigma_jax.tools.probe_attentive --config=configs/attentive_grid.py:dataset=ssv2 --init=runs/k400 \\
        --data_dir=DATA/ssv2 --out=probe
    python -m sigma_jax.tools.probe_attentive --init=runs/k400 --data_dir=DATA/ucf101 --out=probe5 \\
        --config.data.num_segments=2 --config.data.num_crops=3 --config.few_shot.videos_per_class=5

Tokens of every clip are computed once and kept in --cache (float16: 2.4 MB a clip of 16 x 224 x 224 with ViT-B); then
learning_rates x weight_decays probes (4 blocks of 16 heads each) train side by side on the same batches. One is chosen
on data.val_split, or on a tenth of the training videos held out where there is none, and measured once on
data.test_split; OUT/result.json has the whole grid. configs/attentive_grid.py lists the options, which
--config.x=y changes: data.label_lists=FILE (lines `key label label ...`) trains with binary cross-entropy and reports
mAP; few_shot.videos_per_class=K takes K training videos per class, once for every seed.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sigma_jax.data.decoders import Decoding
from sigma_jax.data.finetune_augment import ViewCrop
from sigma_jax.data.identity import identify
from sigma_jax.data.labelled import LabelledSpec
from sigma_jax.data.loader import LoaderSpec, OnePass, Workers, open_loader
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.data.source import open_source
from sigma_jax.datasets.classes import check_known, read_classes
from sigma_jax.evals.attentive_grid import GridSettings, TokenSet, attentive_grid, few_shot, step_ratio, training_flops
from sigma_jax.evals.token_cache import CachedTokens, Views, cached_tokens
from sigma_jax.models.compute import Compute
from sigma_jax.runtime import config as configs
from sigma_jax.runtime.command import Command, add_weights_flags, command_parser, leave
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.files import replacing
from sigma_jax.runtime.logs import start_logging
from sigma_jax.tasks.cost import block_macs
from sigma_jax.train.setup import number_type
from sigma_jax.weights.formats import WHICH
from sigma_jax.weights.frozen import Pretrained, load

HELD_OUT = 10  # without a val split every tenth training video chooses the head


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The `data` of configs/attentive_grid.py, which says what each value means."""

    name: str
    split: str
    test_split: str
    val_split: str | None
    sampling: str
    frame_stride: int
    short_side: int
    interpolation: str
    num_segments: int
    num_crops: int
    label_lists: str | None
    num_workers: int
    decoder: str
    decode_timeout: float

    def __post_init__(self):
        if self.num_segments < 1 or self.num_crops < 1:
            raise InvalidValue(
                f"data.num_segments={self.num_segments}, data.num_crops={self.num_crops}: expected at least 1"
            )


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Training videos per class (0: all), and the seeds that choose them."""

    videos_per_class: int
    seeds: tuple[int, ...]

    def __post_init__(self):
        if self.videos_per_class < 0:
            raise InvalidValue(f"few_shot.videos_per_class={self.videos_per_class}: expected 0 (all) or more")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InvalidValue(f"few_shot.seeds={self.seeds}: expected one or more, each once")


class Settings(NamedTuple):
    """What a config says; `recorded` is the config itself, for the result."""

    data: DataSettings
    few_shot: FewShot
    grid: GridSettings
    clips_per_pass: int
    decisions: tuple[str, ...]
    recorded: dict[str, Any]


def read_settings(spec: str, overrides: Mapping[str, str]) -> Settings:
    """The settings of the config `path[:arg]` with the values of `overrides`.

    Raises:
      UserError: a config without a grid, or values that make none.
    """
    chosen = configs.apply_overrides(configs.load_config(spec), overrides)
    if "grid" not in chosen:
        raise InvalidValue(f"{spec} has no grid of probes: expected configs/attentive_grid.py, or a variant of it")
    if chosen.compute.clips_per_pass < 1:
        raise InvalidValue(f"compute.clips_per_pass={chosen.compute.clips_per_pass}: expected at least 1")
    data = configs.read_section(DataSettings, chosen.data)
    given = {"multi_label": data.label_lists is not None, "dtype": number_type(chosen.compute.dtype)}
    return Settings(
        data,
        configs.read_section(FewShot, chosen.few_shot),
        configs.read_section(GridSettings, chosen.grid, seed=chosen.seed, **given),
        chosen.compute.clips_per_pass,
        tuple(chosen.decisions),
        configs.recorded(chosen),
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("probe_attentive", __doc__)
    parser.add_argument("--config", default="configs/attentive_grid.py", help="configs/attentive_grid.py:dataset=...")
    parser.add_argument("--init", required=True, help="run folder, checkpoint or file of weights")
    parser.add_argument("--data_dir", required=True, help="labelled shards or images")
    parser.add_argument("--out", required=True, type=Path, help="folder for result.json")
    parser.add_argument("--cache", type=Path, default=Path("tokens"), help="folder of the stored tokens")
    add_weights_flags(parser, WHICH)
    rest, overrides = configs.split_command_line(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(rest)
    args.settings = read_settings(args.config, overrides)
    return args


def probe(args: argparse.Namespace) -> int:
    """Computes or finds the tokens of all splits, trains the grid, writes and prints what it found."""
    start_logging()
    settings, few, data = args.settings.grid, args.settings.few_shot, args.settings.data
    model = load(args.init, num_heads=args.num_heads, weights=args.weights, compute=Compute(dtype=settings.dtype))
    classes = read_classes(args.data_dir, data.split)
    check_known(data.name, classes)
    names = [name for name in dict.fromkeys((data.split, data.val_split, data.test_split)) if name]
    found = {name: split_tokens(args, model, classes.num_classes, name) for name in names}
    labels = read_label_lists(data.label_lists) if data.label_lists else None
    num_classes = classes.num_classes
    if labels is not None:
        num_classes = 1 + max(max(numbers) for numbers in labels.values() if numbers)
    sets = {name: token_set(cached, labels, num_classes, data.label_lists) for name, cached in found.items()}
    train, val = choose_val(data, sets)
    test = sets[data.test_split] if data.test_split != data.val_split else None
    num_clips = few.videos_per_class * num_classes or len(train.labels)
    print(forecast(settings, num_clips, train.tokens.shape[2:], clip_flops(model) * data.num_segments), flush=True)
    if few.videos_per_class:
        result = few_shot((train, val, test), num_classes, settings, few.videos_per_class, few.seeds)
    else:
        result = attentive_grid(train, val, num_classes, settings, test)
    parts = {"train": train, "val": val, "test": test}
    about = {
        "weights": model.weights.digest(),
        "weights_file": args.init,
        "data_dir": str(args.data_dir),
        "splits": {"train": data.split, "val": data.val_split or f"every {HELD_OUT}th of {data.split}"}
        | ({"test": data.test_split} if test is not None else {}),
        "clips": {name: len(part.labels) for name, part in parts.items() if part is not None},
        "unreadable": {name: len(cached.unreadable) for name, cached in found.items()},
        "config": args.settings.recorded,
        "view": view_of(data, model),
        "decisions": list(args.settings.decisions),
    }
    path = args.out / "result.json"
    args.out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(about | result, indent=1) + "\n")
    print(summary(result, settings))
    print(path)
    return 0


def forecast(settings: GridSettings, num_clips: int, token_shape: tuple[int, int], encoder: float) -> str:
    """What training will cost, before it begins, beside the cost of one head.

    Args:
      token_shape: N, D.
      encoder: operations that computed the tokens of one clip.
    """
    total, blocks = training_flops(settings, num_clips, token_shape)
    count = len(settings.pairs)
    text = f"{count} heads of depth {settings.depth}, {num_clips} clips of {token_shape[0]} tokens, "
    text += f"{settings.epochs} epochs: {total / 1e12:.3g} TFLOP to train (forecast)"
    if blocks:
        text += f", {100 * blocks / total:.0f} % of it blocks over all tokens of each head; grid.depth=1 has none"
    stored, computed = step_ratio(settings, token_shape), step_ratio(settings, token_shape, encoder)
    shared = "" if blocks else ". Without blocks most of the time goes into reading the tokens, once for all heads"
    return text + (
        f". That is {stored:.0f} times the operations of one head on the stored tokens; if the encoder computed them "
        f"anew in every step, {computed:.1f} times{shared}"
    )


def clip_flops(model: Pretrained) -> float:
    """Operations of the frozen encoder for one clip; a multiplication and an addition are two."""
    sizes = model.weights.sizes
    frames, side, width = sizes.get("num_frames", 16), sizes.get("image_size", 224), sizes["width"]
    t, h, w = model.token_grid((frames, *((side, side) if isinstance(side, int) else side)))
    patch = 3 * model.frames_per_step * model.token_size**2
    passes, extra = (t, 1 + sizes["num_registers"]) if model.weights.kind == "teacher" else (1, 0)
    tokens = t * h * w // passes
    macs = passes * (tokens * patch * width + sizes["depth"] * block_macs(tokens + extra, width))
    return 2.0 * macs


def view_of(data: DataSettings, model: Pretrained) -> dict[str, Any]:
    """What determines the tokens of a video, beside the weights: its clips and the arithmetic."""
    sizes = model.weights.sizes
    chosen = ("sampling", "frame_stride", "short_side", "interpolation", "num_segments", "num_crops")
    return {name: getattr(data, name) for name in chosen} | {
        "num_frames": sizes.get("num_frames", 16),
        "image_size": sizes.get("image_size", 224),
        "dtype": str(jnp.dtype(model.compute.dtype)),
    }


def split_tokens(args: argparse.Namespace, model: Pretrained, num_classes: int, split: str) -> CachedTokens:
    """The tokens of one split, from the cache where they are there."""
    data, clips_per_pass = args.settings.data, args.settings.clips_per_pass
    view = view_of(data, model)
    sampling = FrameSampling(data.sampling, view["num_frames"], data.frame_stride)
    crops = ViewCrop(data.num_crops, data.short_side, data.interpolation)
    spec = LabelledSpec(sampling, view["image_size"], num_classes, crops=crops, num_views=data.num_segments)
    source = open_source(args.data_dir, split)
    made_of = {**model.identity, "view": view, "split": split, "data": identify(source)}
    reading = Workers(data.num_workers), Decoding(data.decoder, data.decode_timeout)

    def batches():
        return open_loader(LoaderSpec(args.data_dir, split, spec, OnePass(True), clips_per_pass, *reading))

    views = Views(len(source), data.num_segments, data.num_crops)
    return cached_tokens(args.cache, made_of, lambda video: model.features(video, pool=False), batches, views)


def read_label_lists(path: str) -> dict[str, list[int]]:
    """key -> numbers of its classes, from lines `key label label ...`.

    Raises:
      InvalidValue: a line of another form, or a file without labels.
    """
    lists = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        if line.strip():
            key, *labels = line.split()
            try:
                lists[key] = [int(label) for label in labels]
            except ValueError as error:
                raise InvalidValue(f"{path}:{number}: {line!r}; expected `key label label ...`") from error
    if not any(lists.values()):
        raise InvalidValue(f"{path} has no label")
    return lists


def token_set(cached: CachedTokens, lists: dict[str, list[int]] | None, num_classes: int, path: str | None) -> TokenSet:
    """Tokens with their labels, or with those of data.label_lists."""
    if lists is None:
        return TokenSet(cached.tokens, cached.labels)
    unknown = [key for key in cached.keys if key not in lists]
    if unknown:
        raise InvalidValue(f"{path} has no line for {unknown[0]!r} and {len(unknown) - 1} other videos")
    labels = np.zeros((len(cached.keys), num_classes), np.uint8)
    for row, key in enumerate(cached.keys):
        labels[row, lists[key]] = 1
    return TokenSet(cached.tokens, labels)


def choose_val(data: DataSettings, sets: dict[str, TokenSet]) -> tuple[TokenSet, TokenSet]:
    """(train, val): the splits, or every tenth video of train held out."""
    train = sets[data.split]
    if data.val_split:
        return train, sets[data.val_split]
    rows = np.arange(len(train.labels))
    is_held_out = rows % HELD_OUT == HELD_OUT - 1
    if not is_held_out.any():
        raise InvalidValue(f"{len(rows)} training videos are too few to hold some out: set --config.data.val_split")
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
