"""What a run has learned: k-NN and linear top-1 on frozen features, beside random weights and raw pixels.

    python -m sigma_jax.tools.probe --workdir=runs/demo --data_dir=DATA/shapes [--bank_split=bank] [--test_split=val]

Restores the newest checkpoint of the workdir, reads two labelled splits, prints a table and writes it to
workdir/probe.json. A feature is the mean of the encoder's latents over all tubes of the central clip; nothing is
trained but the linear probe (multinomial logistic regression, not the paper's probe recipe).
"""

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax

from sigma_jax.checkpoints.manager import find_checkpoint, restore_subtree
from sigma_jax.evals.features import FeatureFn, raw_pixel_features
from sigma_jax.evals.frozen_features import FrozenFeatures
from sigma_jax.evals.labellings import labellings
from sigma_jax.runtime.command import Command, leave
from sigma_jax.runtime.compilation import quick_compilation
from sigma_jax.runtime.config import load_json
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.logs import start_logging, telling
from sigma_jax.runtime.random import stream
from sigma_jax.runtime.sharding import state_shardings, with_shardings
from sigma_jax.tasks.pretrain import PretrainTask, central_clips, frozen_features
from sigma_jax.train.setup import build_task


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--checkpoint_dir", help="its checkpoints, where training had this flag too")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of record shards with labels")
    parser.add_argument("--bank_split", default="bank", help="labelled split that k-NN and the linear probe learn from")
    parser.add_argument("--test_split", default="val", help="labelled split that is measured")
    parser.add_argument("--batch_size", type=int, default=64, help="clips per forward pass")
    parser.add_argument("--k", type=int, default=20, help="neighbours of k-NN")
    return parser.parse_args(argv)


def random_encoder(task: PretrainTask, seed: int) -> dict:
    """The encoder as a run of this seed starts with it."""
    init = jax.jit(partial(_init_encoder, task), compiler_options=quick_compilation())
    return init(stream(seed, "init"))


def _init_encoder(task: PretrainTask, key: jax.Array) -> dict:
    return {"encoder": task.init(key)["encoder"]}


def trained_encoder(task: PretrainTask, checkpoints: str | Path) -> dict:
    """The encoder of the newest checkpoint of a run."""
    shapes = jax.eval_shape(partial(_init_encoder, task), stream(0, "init"))
    wanted = with_shardings(shapes, state_shardings(task.mesh, shapes))
    return restore_subtree(find_checkpoint(checkpoints), {"params": wanted})["params"]


def measure(
    features: Mapping[str, FeatureFn],
    task: PretrainTask,
    data_dir: Path,
    *,
    splits=("bank", "val"),
    batch_size=64,
    k=20,
) -> list[dict]:
    """Rows of the table, one per network; `splits`: what is looked up, and what is measured."""
    with telling(f"reading the splits {' and '.join(splits)}"):
        bank, test = (list(central_clips(task, str(data_dir), split, batch_size)) for split in splits)
    asked = labellings(data_dir)

    def row(network: FeatureFn) -> dict[str, float]:
        evaluator = FrozenFeatures(lambda _, video: network(video), lambda: bank, lambda: test, asked, k=k)
        return dict(evaluator.run({}))

    rows = []
    for name, network in features.items():
        with telling(f"features, k-NN and linear probe of: {name}"):
            rows.append({"features": name, **row(network)})
    return rows


def table(rows: list[dict]) -> str:
    """The rows in columns, per cent."""
    columns = list(rows[0])
    lines = [columns] + [[row[columns[0]], *(f"{row[name]:.1f}" for name in columns[1:])] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  ".join(cells) for cells in aligned)


def probe(args: argparse.Namespace) -> int:
    """Measures the run's encoder and its controls; prints and keeps the table."""
    start_logging()
    config = load_json(args.workdir / "config.json")
    task = build_task(config)
    if config.task != "pretrain":
        raise InvalidValue(
            f"{args.workdir} is a run of {task.summary}: this probe measures pre-training runs, "
            "tools.probe_frozen any weights"
        )
    latents = frozen_features(task)
    features = {
        "trained": partial(latents, trained_encoder(task, args.checkpoint_dir or args.workdir)),
        "random weights": partial(latents, random_encoder(task, config.seed)),
        "raw 8x8x8 pixels": raw_pixel_features,
    }
    splits = args.bank_split, args.test_split
    rows = measure(features, task, args.data_dir, splits=splits, batch_size=args.batch_size, k=args.k)
    print(f"Top-1 in per cent on split {args.test_split!r} of {args.data_dir} (k-NN with k={args.k}):")
    print(table(rows))
    (args.workdir / "probe.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    return 0


main = Command("probe", parse_arguments, probe)

if __name__ == "__main__":
    leave(main())
