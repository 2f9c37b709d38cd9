"""The evidence run: SIGMA-MLP and its controls with the same budget, several seeds, one table.

    python -m sigma_jax.tools.evidence --workdir=runs/evidence --data_dir=DATA/shapes [--seeds=3] [--steps=900]

Every arm and seed is an ordinary run of sigma_jax.main in its own folder; what is finished is not repeated, so the same
command goes on after an interruption. Frozen features are measured by k-NN, a linear probe (multinomial logistic
regression) and an attentive probe (evals/attentive.py); rows for random weights and raw pixels say what needs no
training. Pixels have no attentive number: pooled without positions they say nothing, and positions are the encoder's.
Writes evidence.json, evidence.md, curves.png and report.html into the workdir, and prints the table.
"""

import argparse
import datetime
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigma_jax import __version__
from sigma_jax.evals.features import raw_pixel_features
from sigma_jax.evals.frozen_features import FrozenFeatures, FrozenTokens
from sigma_jax.evals.labellings import labellings
from sigma_jax.report.comparison import write_comparison
from sigma_jax.report.page import Picture, RunPage, write_page
from sigma_jax.runtime.checkout import commit
from sigma_jax.runtime.command import Command, leave
from sigma_jax.runtime.config import load_config, load_json
from sigma_jax.runtime.errors import Failed, InvalidValue
from sigma_jax.tasks.pretrain import BATCH_PER_DEVICE, PretrainTask, central_clips, frozen_features
from sigma_jax.tools.probe import measure, random_encoder, trained_encoder
from sigma_jax.train.setup import build_task


class Arm(NamedTuple):
    """One row of the table: which arm of configs/evidence.py, and for how much of the budget."""

    title: str
    config: str
    share: float = 1.0


ARMS = {
    "sigma": Arm("SIGMA-MLP, hard assignments (published)", "sigma"),
    "pixel": Arm("pixel control (VideoMAE)", "pixel"),
    "learned": Arm("L2 on learned targets", "learned"),
    "soft": Arm("SIGMA-MLP, soft assignments", "soft"),
    "pixel_third": Arm("pixel control, a third of the steps", "pixel", 1 / 3),
}
Numbers = dict[str, float]


def train(arm: Arm, seed: int, folder: Path, data_dir: Path, steps: int) -> None:
    """Trains (or resumes) one arm through the ordinary command.

    Raises:
        RuntimeError: the run failed; its log is in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sigma_jax.main", f"--config=configs/evidence.py:arm={arm.config}"]
    command += [f"--workdir={folder}", f"--data_dir={data_dir}", f"--config.seed={seed}"]
    command += [f"--config.total_steps={max(1, round(steps * arm.share))}"]
    with open(folder / "log.txt", "a") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise Failed(f"{shlex.join(command)} ended with status {status}: see {folder / 'log.txt'}")


def cached(path: Path, asked: dict, compute) -> Numbers:
    """Numbers kept in `path`, or computed now; kept ones that were asked otherwise are an error.

    Raises:
        ValueError: the folder belongs to another experiment.
    """
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["asked"] != asked:
            raise InvalidValue(f"{path} was measured for {kept['asked']}, now asked for {asked}: use another --workdir")
        return kept["numbers"]
    numbers = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"asked": asked, "numbers": numbers}, indent=2) + "\n")
    return numbers


def arm_numbers(arm: Arm, seed: int, folder: Path, data_dir: Path, steps: int) -> Numbers:
    """Trains one arm if needed and measures its frozen encoder."""
    train(arm, seed, folder, data_dir, steps)
    config = load_json(folder / "config.json")
    task = build_task(config)
    return _encoder_numbers(task, trained_encoder(task, folder), data_dir)


def untrained_numbers(seed: int, data_dir: Path) -> Numbers:
    """Random weights, as a run of this seed starts."""
    task = build_task(load_config("configs/evidence.py"))
    return _encoder_numbers(task, random_encoder(task, seed), data_dir)


def _encoder_numbers(task: PretrainTask, params: dict, data_dir: Path) -> Numbers:
    bank, test = (list(central_clips(task, str(data_dir), split, BATCH_PER_DEVICE)) for split in ("bank", "val"))
    clips = lambda: bank, lambda: test, labellings(data_dir)
    numbers = dict(FrozenFeatures(frozen_features(task), *clips).run(params))
    tokens = FrozenTokens(frozen_features(task, pool=False), *clips, num_heads=task.size.num_heads)
    return numbers | dict(tokens.run(params))


def pixel_numbers(data_dir: Path) -> Numbers:
    """Raw pixels: k-NN and linear only."""
    numbers = measure({"": raw_pixel_features}, build_task(load_config("configs/evidence.py")), data_dir)[0]
    numbers.pop("features")
    return numbers


def collect(workdir: Path, data_dir: Path, names: Sequence[str], seeds: int, steps: int) -> dict[str, list[Numbers]]:
    """Row title -> numbers of each seed; runs seed by seed, so that an interrupted experiment has whole seeds."""
    rows: dict[str, list[Numbers]] = {ARMS[name].title: [] for name in names} | {"random weights": []}
    for seed in range(seeds):
        for name in names:
            arm = ARMS[name]
            print(f"seed {seed}: {arm.title}", flush=True)
            folder = workdir / f"{name}-seed{seed}"
            asked = {"steps": steps, "seed": seed, "arm": name}
            compute = partial(arm_numbers, arm, seed, folder, data_dir, steps)
            rows[arm.title].append(cached(folder / "evidence.json", asked, compute))
        path = workdir / f"random-seed{seed}.json"
        rows["random weights"].append(cached(path, {"seed": seed}, partial(untrained_numbers, seed, data_dir)))
    rows["raw 8x8x8 pixels"] = [cached(workdir / "pixels.json", {}, partial(pixel_numbers, data_dir))]
    return rows


def cell(values: Sequence[float]) -> str:
    """Mean, and with several seeds the sample standard deviation; a dash where nothing was measured."""
    if not values:
        return "-"
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def table(rows: dict[str, list[Numbers]]) -> list[dict[str, str]]:
    """Rows for the page and the markdown file, per cent."""
    columns = list(next(iter(rows.values()))[0])

    def cells(seeds: list[Numbers]) -> dict[str, str]:
        return {name: cell([numbers[name] for numbers in seeds if name in numbers]) for name in columns}

    return [{"frozen features": title, **cells(seeds)} for title, seeds in rows.items()]


def findings(rows: dict[str, list[Numbers]]) -> list[str]:
    """What the numbers say, column by column; a difference counts when the ranges of the seeds do not touch."""
    ours, lines = ARMS["sigma"].title, []
    for name in rows[ours][0]:
        own = [numbers[name] for numbers in rows[ours]]
        better, worse, level = [], [], []
        for title, seeds in rows.items():
            other = [numbers[name] for numbers in seeds if name in numbers]
            if title != ours and other:
                (better if min(own) > max(other) else worse if max(own) < min(other) else level).append(title)
        parts = [("ahead of", better), ("level with", level), ("BEHIND", worse)]
        lines.append(f"{name}: SIGMA-MLP is " + "; ".join(f"{word} {', '.join(t)}" for word, t in parts if t) + ".")
    return lines


def markdown(shown: list[dict[str, str]], found: list[str], note: str) -> str:
    """The table for a README."""
    columns = list(shown[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row.values()) + " |" for row in shown]
    return "\n".join([*lines, "", note, "", *(f"- {line}" for line in found)]) + "\n"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of all runs and the table")
    parser.add_argument("--data_dir", type=Path, required=True, help="shards of the moving shapes: train, bank, val")
    parser.add_argument("--arms", default=",".join(ARMS), help="which of them, separated by commas; sigma comes first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=900, help="budget of each arm")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.steps < 3:
        parser.error(f"got --seeds={args.seeds} --steps={args.steps}: expected 1 or more seeds, 3 or more steps")
    names = args.names = args.arms.split(",")
    if names[0] != "sigma" or not set(names) <= set(ARMS) or len(set(names)) != len(names):
        parser.error(f"got --arms={args.arms}: expected sigma, then any of {', '.join(list(ARMS)[1:])}")
    return args


def evidence(args: argparse.Namespace) -> int:
    """Trains and measures all arms, writes table and page."""
    names = args.names
    rows = collect(args.workdir.absolute(), args.data_dir.absolute(), names, args.seeds, args.steps)
    shown, found = table(rows), findings(rows)
    command = f"python -m sigma_jax.tools.evidence --workdir={args.workdir} --data_dir={args.data_dir} "
    command += f"--arms={args.arms} --seeds={args.seeds} --steps={args.steps}"
    note = (
        f"Top-1 in per cent on a split never trained on, mean ± standard deviation over {args.seeds} seed(s), "
        f"{args.steps} steps. `{command}`, {datetime.date.today()}, version {__version__}, commit {commit()}."
        + (" One seed: differences under about 10 points are noise." if args.seeds == 1 else "")
    )
    metrics = {
        ARMS[name].title: [args.workdir / f"{name}-seed{seed}" / "metrics.jsonl" for seed in range(args.seeds)]
        for name in names
    }
    picture = write_comparison(args.workdir / "curves.png", metrics)
    (args.workdir / "evidence.json").write_text(json.dumps({"rows": rows, "note": note}, indent=2) + "\n")
    (args.workdir / "evidence.md").write_text(markdown(shown, found, note))
    first = args.workdir / "sigma-seed0"
    page = RunPage(
        title="Evidence run",
        summary=note.replace("`", "") + " " + " ".join(found),
        command=command,
        config=(first / "config.json").read_text(),
        versions=json.loads((first / "versions.json").read_text()),
        results=shown,
        pictures=[Picture(picture, "Curves of all arms over steps", "Mean over seeds; the band spans the seeds.")],
    )
    print(markdown(shown, found, note))
    print(f"page: {write_page(args.workdir / 'report.html', page)}")
    return 0


main = Command("evidence", parse_arguments, evidence, after_stop="Finished runs are kept: the same command goes on")

if __name__ == "__main__":
    leave(main())
