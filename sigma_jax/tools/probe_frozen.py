"""Probes any weights on any labelled set: k-NN and logistic regression on frozen features, computed once and kept.

    python -m sigma_jax.tools.probe_frozen --init=runs/k400 --data_dir=DATA/ucf101 --cache=features

--init takes a run folder or a file in any format. A feature is the mean of the latents of one central clip. Again with
the same weights, data and view, nothing is computed; another k costs seconds. The linear number is a logistic
regression (L-BFGS): it is not the paper's probe, which configs/linear_probe.py trains.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp

from sigma_jax.data.identity import identify
from sigma_jax.data.labelled import LabelledSpec
from sigma_jax.data.loader import LoaderSpec, OnePass, open_loader
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.data.source import open_source
from sigma_jax.datasets.classes import read_classes
from sigma_jax.evals.feature_cache import cached_features
from sigma_jax.evals.knn import accuracy, knn_scores
from sigma_jax.evals.linear import linear_probe
from sigma_jax.models.pretrain import Compute
from sigma_jax.runtime.command import Command, leave
from sigma_jax.runtime.logs import start_logging
from sigma_jax.weights.frozen import load


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", required=True, help="run folder, checkpoint or file of weights")
    parser.add_argument("--data_dir", required=True, help="labelled shards or images")
    parser.add_argument("--train_split", default="train")
    parser.add_argument("--test_split", default="val")
    parser.add_argument("--cache", type=Path, default=Path("features"), help="folder of the stored features")
    parser.add_argument("--sampling", choices=("dense", "uniform"), default="dense", help="uniform: SSv2")
    parser.add_argument("--frame_stride", type=int, default=4, help="of dense sampling")
    parser.add_argument("--batch_size", type=int, default=32, help="clips per forward pass")
    parser.add_argument("--k", type=int, default=200, help="neighbours of k-NN")
    parser.add_argument("--num_heads", type=int, help="where the weights do not say and width / 64 is wrong")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")
    return parser.parse_args(argv)


def probe(args: argparse.Namespace) -> int:
    """Computes or finds the features of both splits and prints three numbers."""
    start_logging()
    dtype = jnp.bfloat16 if args.bfloat16 else jnp.float32
    model = load(args.init, num_heads=args.num_heads, compute=Compute(dtype=dtype))
    num_classes = read_classes(args.data_dir, args.train_split).num_classes
    sizes = model.weights.sizes
    sampling = FrameSampling(args.sampling, sizes.get("num_frames", 16), args.frame_stride)
    spec = LabelledSpec(sampling, sizes.get("image_size", 224), num_classes)

    def features(split: str):
        view = {"spec": repr(spec), "dtype": str(jnp.dtype(dtype))}
        source = identify(open_source(args.data_dir, split))
        made_of = {"weights": model.weights.digest(), "view": view, "split": split, "data": source}

        def batches():
            return open_loader(LoaderSpec(args.data_dir, split, spec, OnePass(True), args.batch_size))

        return cached_features(args.cache, made_of, model.features, batches)

    train, test = features(args.train_split), features(args.test_split)
    scores = knn_scores(*train, test[0], k=args.k, num_classes=num_classes)
    linear = linear_probe(train, test, num_classes=num_classes)
    print(
        f"{len(train[1])} clips of {args.train_split!r}, {len(test[1])} of {args.test_split!r}, {num_classes} classes"
    )
    print(f"k-NN (k={min(args.k, len(train[1]))}, temperature 0.07): top-1 {accuracy(scores, test[1]):.1f}")
    print(f"logistic regression: top-1 {linear['top1']:.1f} (on its own training clips {linear['train_top1']:.1f})")
    return 0


main = Command("probe_frozen", parse_arguments, probe)

if __name__ == "__main__":
    leave(main())
