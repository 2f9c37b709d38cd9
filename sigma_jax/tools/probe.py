"""What a run has learned: k-NN and linear top-1 on frozen features, beside random weights and raw pixels.

    python -m sigma_jax.tools.probe --workdir=runs/demo --data_dir=DATA/shapes [--bank_split=bank] [--test_split=val]

Restores the newest checkpoint of the workdir, reads two labelled splits, prints a table and writes it to
workdir/probe.json. A feature is the mean of the encoder's latents over all tubes of the central clip; nothing is
trained but the linear probe (multinomial logistic regression, not the paper's probe recipe).
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.checkpoints.manager import find_checkpoint, restore_subtree
from sigma_jax.data.metadata import read_label_map
from sigma_jax.data.pipeline import eval_loader
from sigma_jax.data.synthetic import MOTIONS, SHAPES
from sigma_jax.evals.features import raw_pixel_features
from sigma_jax.evals.protocol import FrozenFeatures
from sigma_jax.train.config import load_json
from sigma_jax.train.logs import start_logging
from sigma_jax.train.setup import build_compute
from sigma_jax.train.sharding import make_mesh
from sigma_jax.train.state import stream
from sigma_jax.train.tasks import PretrainTask, pretrain_task


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of record shards with labels")
    parser.add_argument("--bank_split", default="bank", help="labelled split that k-NN and the linear probe learn from")
    parser.add_argument("--test_split", default="val", help="labelled split that is measured")
    parser.add_argument("--batch_size", type=int, default=64, help="clips per forward pass")
    parser.add_argument("--k", type=int, default=20, help="neighbours of k-NN")
    return parser.parse_args(argv)


def feature_fn(task: PretrainTask, params) -> Callable[[np.ndarray], jax.Array]:
    """video uint8 [B F y x 3] -> mean latent [B D], fp32."""

    @jax.jit
    def features(params, video):
        latents = task.model.apply({"params": params}, video, method="encode")
        return jnp.mean(latents.astype(jnp.float32), axis=1)

    return lambda video: features(params, video)


def labellings(data_dir: Path) -> dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]]:
    """What is asked of a data set: its classes; of the synthetic shapes also motion and shape by themselves."""
    names = read_label_map(data_dir)
    if not names:
        raise ValueError(f"{data_dir} has no label_map.txt: a probe needs labelled splits (class folders, or a csv)")
    factors = {"motion": MOTIONS, "shape": SHAPES}
    parts = [name.split("-") for name in names]
    if not all(len(part) == 2 and part[0] in MOTIONS and part[1] in SHAPES for part in parts):
        return {"class": (lambda labels: labels, len(names))}
    asked = {}
    for i, (factor, values) in enumerate(factors.items()):
        table = np.asarray([values.index(part[i]) for part in parts])
        asked[factor] = (lambda labels, table=table: table[labels], len(values))
    return asked | {"joint": (lambda labels: labels, len(names))}


def measure(config, args: argparse.Namespace) -> list[dict]:
    """Rows of the table: trained, random weights, raw pixels."""
    task = pretrain_task(config, make_mesh(), build_compute(config.compute))
    fresh = jax.jit(task.init)(stream(config.seed, "init"))
    encoder = fresh["encoder"]
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), encoder)
    trained = restore_subtree(find_checkpoint(args.workdir), {"params": {"encoder": wanted}})["params"]
    rows = {
        "trained": feature_fn(task, trained),
        "random weights": feature_fn(task, {"encoder": encoder}),
        "raw 8x8x8 pixels": raw_pixel_features,
    }

    def batches(split: str) -> Iterable[dict[str, np.ndarray]]:
        return eval_loader(
            args.data_dir,
            split=split,
            num_frames=config.model.num_frames,
            frame_stride=config.data.frame_stride,
            image_size=config.model.image_size,
            global_batch=args.batch_size,
            crop="none" if config.data.crop == "none" else "center",
        )

    bank, test = (list(batches(split)) for split in (args.bank_split, args.test_split))
    evaluator = FrozenFeatures(lambda: bank, lambda: test, labellings(args.data_dir), k=args.k)
    return [{"features": name, **dict(evaluator.run(function))} for name, function in rows.items()]


def table(rows: list[dict]) -> str:
    """The rows in columns, per cent."""
    columns = list(rows[0])
    lines = [columns] + [[row[columns[0]], *(f"{row[name]:.1f}" for name in columns[1:])] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  ".join(cells) for cells in aligned)


def main(argv: list[str] | None = None) -> int:
    start_logging()
    args = parse_arguments(argv)
    rows = measure(load_json(args.workdir / "config.json"), args)
    print(f"Top-1 in per cent on split {args.test_split!r} of {args.data_dir} (k-NN with k={args.k}):")
    print(table(rows))
    (args.workdir / "probe.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
