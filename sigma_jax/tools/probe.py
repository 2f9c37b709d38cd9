"""Measures frozen features: k-NN and linear top-1 accuracy, compared with random weights and raw pixels.

    python -m sigma_jax.tools.probe --workdir=runs/demo --data_dir=DATA/shapes
    python -m sigma_jax.tools.probe --init=WEIGHTS --data_dir=DATA/ucf101 --bank_split=train --cache=features

--workdir takes the newest checkpoint of a run and keeps the table in workdir/probe.json, which its report shows; --init
takes weights in any format, and --out keeps the table. The clips of one labelled split are the feature bank, those of
another are classified; one central view of each video, with the sampling that the weights were trained with unless
--sampling or --frame_stride say otherwise. A feature is the mean of the encoder's latents (of a classifier: the input
of its head; of an image teacher: the mean cls token). Only the linear probe is trained, a multinomial logistic
regression. It is not the paper's probe, which configs/linear_probe.py trains. The table states k and the view.
"""

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.data.identity import identify
from sigma_jax.data.labelled import LabelledSpec
from sigma_jax.data.loader import LoaderSpec, OnePass, open_loader
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.data.source import open_source
from sigma_jax.evals.feature_cache import cached_features
from sigma_jax.evals.features import RAW_PIXELS, FeatureFn, extract_all, raw_pixel_features
from sigma_jax.evals.frozen_features import frozen_scores
from sigma_jax.evals.knn import TEMPERATURE
from sigma_jax.evals.labellings import labellings
from sigma_jax.models.compute import Compute
from sigma_jax.runtime.command import Command, add_weights_flags, command_parser, leave, positive
from sigma_jax.runtime.compilation import use_compilation_cache
from sigma_jax.runtime.logs import start_logging, telling
from sigma_jax.weights.formats import WHICH
from sigma_jax.weights.frozen import Pretrained, load, untrained
from sigma_jax.weights.weights_file import content_digest, flatten

Features = tuple[np.ndarray, np.ndarray]  # [n D], stored labels [n]


class Network(NamedTuple):
    """A row of the table: features of clips, and JSON that tells this network from all others."""

    features: FeatureFn
    identity: Mapping[str, Any]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("probe", __doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", type=Path, help="folder of a run")
    which.add_argument("--init", help="run folder, checkpoint or file of weights, in any format")
    parser.add_argument("--checkpoint_dir", help="checkpoints of --workdir, if training had this flag")
    add_weights_flags(parser, WHICH)
    parser.add_argument("--data_dir", type=Path, required=True, help="labelled shards or images")
    parser.add_argument("--bank_split", default="bank", help="labelled split that k-NN and the linear probe learn from")
    parser.add_argument("--test_split", default="val", help="labelled split that is measured")
    parser.add_argument(
        "--sampling", choices=("dense", "uniform"), help="how frames are chosen (default: as in training)"
    )
    parser.add_argument(
        "--frame_stride", type=positive, help="frames between two, dense sampling (default: as in training)"
    )
    parser.add_argument("--batch_size", type=positive, default=64, help="clips per forward pass")
    parser.add_argument("--k", type=positive, default=20, help="neighbours of k-NN (default 20)")
    parser.add_argument("--cache", type=Path, help="folder that keeps computed features")
    parser.add_argument("--out", type=Path, help="JSON file for the table, with --init")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")
    return parser.parse_args(argv)


def view_of(model: Pretrained, sampling: str | None = None, frame_stride: int | None = None) -> LabelledSpec:
    """The central view of a video, with the frame sampling of training or that of the flags."""
    sizes = model.weights.sizes
    kind, stride = sampling or sizes.get("sampling") or "dense", frame_stride or model.frame_stride
    side = sizes.get("image_size", 224)
    side = side if isinstance(side, int) else min(side)
    return LabelledSpec(FrameSampling(kind, sizes.get("num_frames", 16), stride), side, num_classes=1)


class Clips:
    """The clips of two labelled splits, in one central view, and their features."""

    def __init__(self, data_dir: str | Path, view: LabelledSpec, splits: tuple[str, str], batch_size: int):
        self.data_dir, self.splits, self.batch_size = str(data_dir), splits, batch_size
        self.asked = labellings(data_dir)
        num_classes = max(asked.num_classes for asked in self.asked.values())
        self.view = LabelledSpec(view.sampling, view.image_size, num_classes)

    def batches(self, split: str):
        """One pass over a split; videos that cannot be read are left out."""
        return open_loader(LoaderSpec(self.data_dir, split, self.view, OnePass(True), self.batch_size))

    def features(self, networks: Mapping[str, Network], cache: Path | None = None) -> dict[str, list[Features]]:
        """The features of both splits by each network, in one pass over the videos; kept in `cache`."""
        functions = {name: network.features for name, network in networks.items()}
        found = []
        for split in self.splits:
            if cache is None:
                found.append(extract_all(functions, self.batches(split)))
                continue
            place = {"view": repr(self.view), "split": split, "data": identify(open_source(self.data_dir, split))}
            made_of = {name: {**network.identity, **place} for name, network in networks.items()}
            found.append(cached_features(cache, made_of, functions, partial(self.batches, split)))
        return {name: [of_split[name] for of_split in found] for name in networks}

    def describe(self, features: list[Features], k: int) -> dict[str, Any]:
        """Settings that the numbers depend on."""
        bank, test = (len(labels) for _, labels in features)
        sampling = self.view.sampling
        return {
            "data_dir": self.data_dir,
            "bank": {"split": self.splits[0], "clips": bank},
            "test": {"split": self.splits[1], "clips": test},
            "view": {
                "frames": sampling.num_frames,
                "sampling": sampling.kind,
                "frame_stride": sampling.stride,
                "image_size": self.view.image_size,
                "crop": "one central clip, centre crop",
            },
            "k": min(k, bank),
            "temperature": TEMPERATURE,
        }


def measure(networks: Mapping[str, Network], clips: Clips, k: int, cache: Path | None = None) -> dict[str, Any]:
    """What decides the numbers, and a row for each network; features are kept in `cache`."""
    with telling(f"features of: {', '.join(networks)}"):
        found = clips.features(networks, cache)
    rows = []
    for name, splits in found.items():
        with telling(f"k-NN and linear probe of: {name}"):
            rows.append({"features": name, **dict(frozen_scores(*splits, clips.asked, k=k))})
    return clips.describe(next(iter(found.values())), k) | {"rows": rows}


def table(result: Mapping[str, Any]) -> str:
    """How it was measured, and the rows in columns, per cent."""
    rows, view = result["rows"], result["view"]
    columns = list(rows[0])
    lines = [columns] + [[row[columns[0]], *(f"{row[name]:.1f}" for name in columns[1:])] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    bank, test = result["bank"], result["test"]
    stride = f", stride {view['frame_stride']}" if view["sampling"] == "dense" else ""
    head = [
        f"Top-1 in per cent on {test['clips']} clips of split {test['split']!r} of {result['data_dir']}, from "
        f"{bank['clips']} of {bank['split']!r}",
        f"(k-NN with k={result['k']}; {view['crop']}, {view['frames']} frames ({view['sampling']}{stride}), "
        f"{view['image_size']} pixels):",
    ]
    return "\n".join([*head, *("  ".join(cells) for cells in aligned)])


def summary(rows: list[Mapping[str, Any]]) -> str:
    """The k-NN columns in one sentence."""
    asked = [name for name in rows[0] if name.startswith("knn/")]
    names = " / ".join(name.removeprefix("knn/") for name in asked)
    found = [f"{' / '.join(f'{row[name]:.0f}' for name in asked)} ({row['features']})" for row in rows]
    return f"In short: of 100 clips k-NN names the {names} of {', '.join(found)}."


def probe(args: argparse.Namespace) -> int:
    """Measures the weights and their controls; prints and keeps the table."""
    start_logging()
    use_compilation_cache()
    compute = Compute(dtype=jnp.bfloat16 if args.bfloat16 else jnp.float32)
    source = args.init or args.checkpoint_dir or args.workdir
    model = load(source, num_heads=args.num_heads, weights=args.weights, compute=compute)
    view = view_of(model, args.sampling, args.frame_stride)
    clips = Clips(args.data_dir, view, (args.bank_split, args.test_split), args.batch_size)
    result = measure(networks_of(model), clips, args.k, args.cache)
    result = {"weights": {"source": str(source), "hash": model.weights.digest()}} | result
    print(table(result))
    print(summary(result["rows"]))
    out = args.out if args.init else args.workdir / "probe.json"
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def networks_of(model: Pretrained) -> dict[str, Network]:
    """The rows of the table: a model, itself with random weights, and what needs no network."""
    random = untrained(model)
    digest = content_digest(flatten(jax.device_get(random.params)))
    return {
        "trained": Network(model.features, model.identity),
        "random weights": Network(random.features, random.identity | {"weights": digest}),
        RAW_PIXELS: Network(raw_pixel_features, {"features": RAW_PIXELS}),
    }


main = Command("probe", parse_arguments, probe)

if __name__ == "__main__":
    leave(main())
