"""Finetunes repetition counting and multi-label classification at toy scale, from a model and from random weights.

    ./launch/demo.sh
    python -m sigma_jax.tools.severe_toys --init=demo_run/train --workdir=runs/toys [--seeds=3] [--data_dir=DATA/toys]
    python -m sigma_jax.tools.severe_toys --init=RUN0,RUN1,RUN2 --workdir=runs/toys     (a model of its own per seed)

Renders shapes that repeat a motion 2 to 8 times, and clips with two labels (tools.synthetic_severe), unless --data_dir
has them. Then finetunes configs/severe.py:score=ucf_rc,size=tiny and score=charades,size=tiny on each seed, once from
--init and once from random weights, with the same clips in the same order. Every run is a run of
sigma_jax.main in its own folder. After an interruption the same command continues; finished runs are
kept. About two processor minutes a run, twelve runs for three seeds.

Prints the table and the differences, paired by seed, and writes both to severe_toys.md and .json in --workdir. All
numbers are per cent, higher is better: counting is 100 (1 - relative error), as in the Mean of SEVERE's table; OBOA
the share of clips whose count is off by one at most; mAP the mean average precision of the labels.
"""

import argparse
import datetime
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sigma_jax import __version__
from sigma_jax.data.metadata import read_json
from sigma_jax.report import arms
from sigma_jax.runtime.checkout import commit
from sigma_jax.runtime.command import Command, command_parser, leave, natural, positive
from sigma_jax.tools.synthetic_severe import CLIPS, write_toys
from sigma_jax.train.experiments import cached, train_in
from sigma_jax.weights.frozen import load
from sigma_jax.weights.weights_file import content_digest, flatten

Numbers = dict[str, float]
TRAINED, RANDOM = "from the checkpoint", "random weights"


class Toy(NamedTuple):
    """One of the two tasks: `score` of configs/severe.py, folder of its data, and how to read its result.json."""

    score: str
    data: str
    numbers: Callable[[dict], Numbers]


TOYS = (
    Toy("ucf_rc", "cycles", lambda got: {"counting": 100 * (1 - got["relative_error"]), "OBOA": 100 * got["oboa"]}),
    Toy("charades", "pairs", lambda got: {"mAP": got["map"]}),
)


class Start(NamedTuple):
    """What a run starts from: a path and the digest of its weights, or None for random ones."""

    init: str
    digest: str

    @property
    def flags(self) -> list[str]:
        return [f"--init={self.init}"]


class Experiment(NamedTuple):
    """Folders of runs and data, and the training steps of a run (0: the config's)."""

    workdir: Path
    data_dir: Path
    steps: int

    def measure(self, toy: Toy, start: Start | None, seed: int) -> Numbers:
        """Finetunes one toy and measures it, or reads what an earlier start of the same has measured."""
        name = f"{toy.score}-{'checkpoint' if start else 'random'}-seed{seed}"
        asked = {"seed": seed, "steps": self.steps, "weights": start.digest if start else None}
        return cached(self.workdir / f"{name}.json", asked, partial(self._run, toy, start, seed, name))

    def _run(self, toy: Toy, start: Start | None, seed: int, name: str) -> Numbers:
        print(f"seed {seed}: {toy.score}, {TRAINED if start else RANDOM}", flush=True)
        flags = [f"--config=configs/severe.py:score={toy.score},size=tiny", f"--data_dir={self.data_dir / toy.data}"]
        flags += [f"--config.seed={seed}", *(start.flags if start else [])]
        flags += [f"--config.total_steps={self.steps}"] if self.steps else []
        train_in(self.workdir / name, flags)
        return toy.numbers(read_json(self.workdir / name / "eval/result.json"))


def collect(experiment: Experiment, starts: Sequence[Start]) -> dict[str, dict[int, Numbers]]:
    """Title -> seed -> numbers of both toys; whole seeds, one after the other."""
    rows: dict[str, dict[int, Numbers]] = {TRAINED: {}, RANDOM: {}}
    for seed, trained in enumerate(starts):
        for title, start in ((RANDOM, None), (TRAINED, trained)):
            rows[title][seed] = {}
            for toy in TOYS:
                rows[title][seed] |= experiment.measure(toy, start, seed)
    return rows


def digest_of(init: str) -> str:
    """Digest of the weights at a path, so that results of other weights at the same path are not reused."""
    return content_digest(flatten(load(init).params))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("severe_toys", __doc__)
    parser.add_argument("--init", required=True, help="run of configs/demo.py, or one per seed, separated by commas")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of all runs and the table")
    parser.add_argument("--data_dir", type=Path, help="data of tools.synthetic_severe (default: made in WORKDIR/data)")
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--steps", type=natural, default=0, help="steps of each run; 0: the config's")
    args = parser.parse_args(argv)
    args.inits = args.init.split(",")
    if len(args.inits) not in (1, args.seeds):
        parser.error(f"--init has {len(args.inits)} models for --seeds={args.seeds}: give one for all, or one per seed")
    return args


def run(args: argparse.Namespace) -> int:
    """Runs both toys and writes the table."""
    inits = [str(Path(init).absolute()) for init in args.inits]
    digests = {init: digest_of(init) for init in dict.fromkeys(inits)}
    starts = [Start(init, digests[init]) for init in (inits if len(inits) > 1 else inits * args.seeds)]
    data_dir = (args.data_dir or args.workdir / "data").absolute()
    write_toys(data_dir, CLIPS)
    rows = collect(Experiment(args.workdir.absolute(), data_dir, args.steps), starts)
    note = (
        f"Mean ± standard deviation over seeds. `python -m sigma_jax.tools.severe_toys --init={args.init} "
        f"--workdir={args.workdir} --seeds={args.seeds} --steps={args.steps}`, {datetime.date.today()}, "
        f"version {__version__}, commit {commit()}."
    )
    found = "\n".join(f"- {line}" for line in arms.findings(rows, TRAINED))
    text = f"{arms.markdown(arms.table(rows, 'weights'))}\n\n{note}\n\n{found}\n"
    (args.workdir / "severe_toys.md").write_text(text)
    (args.workdir / "severe_toys.json").write_text(json.dumps({"rows": rows, "note": note}, indent=2) + "\n")
    print(text, end="")
    return 0


main = Command("severe_toys", parse, run, after_stop="The same command goes on")

if __name__ == "__main__":
    leave(main())
