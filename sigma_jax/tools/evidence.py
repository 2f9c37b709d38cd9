"""The evidence run: SIGMA-MLP and its controls with the same budget, several seeds, paired comparisons.

    python -m sigma_jax.tools.synthetic --out=DATA/shapes --test=2000
    python -m sigma_jax.tools.evidence --workdir=runs/evidence --data_dir=DATA/shapes [--steps=3000] [--seeds=5]
    python -m sigma_jax.tools.evidence --workdir=runs/real --data_dir=DATA/real --questions=time --steps=1500 --seeds=3

The learning rate of every arm is chosen among --rates times the config's, by its frozen features after the last step,
on a seed and on clips that the final measurement does not use. Then every arm trains on the same seeds. Every run is a
run of sigma_jax.main in its own folder. After an interruption the same command continues; finished runs are kept.

--questions=labels classifies the labels of a labelled set (splits train, bank, val, test: tools.synthetic).
--questions=time classifies the order, speed and direction of motion in real videos without labels (evals/pretext.py):
a third of the videos of --split are the training set of k-NN and linear probe, a third choose, a third are measured.
Each is asked of features as they are and, as "... change", of features minus their mean over the eight versions of a
window. Rows for random weights, raw pixels and optical flow show what is reached without training. Numbers are given
for the last step and for the step with the best score on the clips that choose.

Writes evidence.json, evidence.md, curves.png and report.html into the workdir, and prints the tables.
"""

import argparse
import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sigma_jax import __version__
from sigma_jax.data.records import find_shards
from sigma_jax.evals import pretext
from sigma_jax.evals.features import RAW_PIXELS, raw_pixel_features
from sigma_jax.evals.frozen_features import Features, FrozenFeatures
from sigma_jax.evals.labellings import labellings
from sigma_jax.evals.protocol import Evaluator
from sigma_jax.report import arms
from sigma_jax.report.comparison import write_comparison
from sigma_jax.report.curves import read_metrics
from sigma_jax.report.page import Picture, RunPage, write_page
from sigma_jax.runtime.checkout import commit
from sigma_jax.runtime.command import Command, command_parser, leave
from sigma_jax.runtime.compilation import quick_compilation
from sigma_jax.runtime.config import load_config, load_json
from sigma_jax.runtime.random import stream
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.pretrain import BATCH_PER_DEVICE, PretrainTask, central_clips, frozen_features
from sigma_jax.train.experiments import cached, train_in
from sigma_jax.train.setup import build_task
from sigma_jax.weights.frozen import load

Numbers = dict[str, float]
CHOICE_SEED = 100  # of the runs that choose the learning rate
MEASURED = 20  # times a run is measured while it trains
HEALTH = ("prototypes_used_pred", "prototypes_used_proj", "assignment_entropy_pred", "assignment_entropy_proj")


class Arm(NamedTuple):
    """One row of the table: its arm of configs/evidence.py, and what share of the budget it gets."""

    title: str
    config: str
    share: float = 1.0


ARMS = {
    "sigma": Arm("SIGMA-MLP, hard assignments (published)", "sigma"),
    "pixel": Arm("pixel control (VideoMAE)", "pixel"),
    "learned": Arm("L2 on learned targets", "learned"),
    "soft": Arm("SIGMA-MLP, soft assignments", "soft"),
    "sigma_warmup": Arm("SIGMA-MLP, warm-up in 20 instead of 6 per cent of the steps", "sigma,warmup=20"),
    "pixel_third": Arm("pixel control, a third of the steps", "pixel", 1 / 3),
}
MAIN_ARMS = ("sigma", "pixel")  # get all seeds, the others at most OTHER_SEEDS
OTHER_SEEDS = 3


@dataclass(frozen=True)
class Questions:
    """An evaluation of frozen features: what is predicted from them, and which clips it uses.

    config: argument of configs/evidence.py. split: split that a run trains on. chooses: scores whose mean chooses a
    learning rate and a step; read from the run's metrics.jsonl where `monitored`, else measured after the last step on
    the clips that choose. evaluators: (task, "val" or "test", features of (params, video)) -> evaluators.
    references: features without a network that are measured, too, by title.
    """

    data_dir: Path
    config: str
    split: str
    chooses: tuple[str, ...]
    evaluators: Callable[..., list[Evaluator]]
    monitored: bool
    references: Mapping[str, Features]


def raw_pixels(params: Params, video: np.ndarray) -> jax.Array:
    """Features of a clip that need no parameters."""
    return raw_pixel_features(video)


def label_questions(data_dir: Path) -> Questions:
    """The labels of a set with the splits bank (learned from), val (chooses) and test (measured).

    Raises:
      DataSetError: a split is missing; says how it is made.
    """
    for split in ("bank", "val", "test"):
        find_shards(data_dir, split)
    asked = labellings(data_dir)

    def evaluators(task: PretrainTask, part: str, features: Features) -> list[Evaluator]:
        clips = [list(central_clips(task, str(data_dir), split, BATCH_PER_DEVICE)) for split in ("bank", part)]
        return [FrozenFeatures(features, lambda: clips[0], lambda: clips[1], asked)]

    chooses = (f"knn/{list(asked)[-1]}",)
    return Questions(data_dir, "data=shapes", "train", chooses, evaluators, True, {RAW_PIXELS: raw_pixels})


def time_questions(data_dir: Path, split: str) -> Questions:
    """Order, speed and direction of the motion in the videos of one split, shared out among the three purposes."""
    thirds = {"bank": 0, "val": 1, "test": 2}
    stride = load_config("configs/evidence.py:data=videos").data.frame_stride

    def evaluators(task: PretrainTask, part: str, features: Features) -> list[Evaluator]:
        spec = pretext.PretextSpec(task.grid.num_frames, stride, task.grid.image_shape[0])
        bank, own = (pretext.pretext_clips(data_dir, split, spec, (thirds[name], 3)) for name in ("bank", part))
        return [pretext.PretextScores(features, bank, own, BATCH_PER_DEVICE)]

    chooses = tuple(f"linear/{name}{pretext.CHANGE}" for name in (*pretext.LABELLINGS, *pretext.DIRECTED))
    references = {RAW_PIXELS: raw_pixels, "optical flow, its mean and size": pretext.flow_features}
    return Questions(data_dir, "data=videos", split, chooses, evaluators, monitored=False, references=references)


@dataclass(frozen=True)
class Experiment:
    """Folder of all runs, steps of each run, and how frozen features are evaluated."""

    workdir: Path
    questions: Questions
    steps: int

    def measure(self, task: PretrainTask, params: dict, part: str) -> Numbers:
        """Numbers of a frozen encoder on the clips that choose ("val") or are measured ("test")."""
        return numbers_of(self.questions.evaluators(task, part, frozen_features(task)), params)

    def run(self, arm: Arm, seed: int, rate: float) -> "FinishedRun":
        """Trains (or resumes) one run through the ordinary command.

        Raises:
          Failed: the run failed; its log is in the folder.
        """
        name = next(name for name, known in ARMS.items() if known is arm)
        folder = self.workdir / f"{name}-seed{seed}-lr{rate:.3g}"
        steps = max(1, round(self.steps * arm.share))
        every = max(1, steps // MEASURED)
        settings = {
            "seed": seed,
            "total_steps": steps,
            "optim.base_lr": rate,
            "data.split": self.questions.split,
            "checkpoint.save_every_steps": every,
            "checkpoint.keep_every_steps": every,
            "evals.knn.every_steps": every if self.questions.monitored else 0,
        }
        flags = [f"--config=configs/evidence.py:arm={arm.config},{self.questions.config}"]
        flags += [f"--data_dir={self.questions.data_dir}"]
        train_in(folder, flags + [f"--config.{setting}={value}" for setting, value in settings.items()])
        return FinishedRun(folder, steps, every)


class FinishedRun(NamedTuple):
    """A run's folder, its steps, and how often it was measured and saved."""

    folder: Path
    steps: int
    every: int

    def curve(self, names: Sequence[str]) -> dict[int, float]:
        """Step -> mean of the named numbers, of every measurement in metrics.jsonl whose checkpoint was kept."""
        metrics = read_metrics(self.folder / "metrics.jsonl")
        found: dict[int, list[float]] = {}
        for name in names:
            for step, value in zip(*(column.tolist() for column in metrics.get(name, ((), ()))), strict=True):
                if step % self.every == 0 or step == self.steps:
                    found.setdefault(step, []).append(value)
        return {step: float(np.mean(values)) for step, values in found.items()}

    def load(self, step: int) -> tuple[PretrainTask, dict]:
        """The task, and the encoder as it was after a step."""
        task = build_task(load_json(self.folder / "config.json"))
        return task, load(self.folder / "checkpoints" / str(step)).params

    def health(self) -> Numbers:
        """Prototypes in use (per cent of K) and entropy of assignments (per cent of ln K) at the last logged step."""
        metrics = read_metrics(self.folder / "metrics.jsonl")
        return {name: 100 * float(metrics[name][1][-1]) for name in HEALTH if name in metrics}


def numbers_of(evaluators: Sequence[Evaluator], params: dict) -> Numbers:
    """The scores of several evaluators in one mapping."""
    return {name: value for evaluator in evaluators for name, value in evaluator.run(params, 0)}


def choose_rate(experiment: Experiment, name: str, rates: Sequence[float]) -> dict:
    """{"rate": the best one, "scores": score of each after its last step} of an arm, on the clips that choose.

    The last step decides: a rate whose features are best half-way and worse later would not be an arm's best chance.
    """
    arm, scores = ARMS[name], {}
    for rate in rates if len(rates) > 1 else ():
        print(f"learning rate {rate:.3g}: {arm.title}", flush=True)
        run = experiment.run(arm, CHOICE_SEED, rate)
        scores[f"{rate:.3g}"] = _choosing_scores(experiment, run)[run.steps]
    best = max(rates, key=lambda rate: scores.get(f"{rate:.3g}", 0.0))
    return {"rate": best, "scores": scores}


def _choosing_scores(experiment: Experiment, run: FinishedRun) -> dict[int, float]:
    """Step -> score by which a learning rate and a step are chosen."""
    questions = experiment.questions
    if questions.monitored:
        return run.curve(questions.chooses)
    numbers = experiment.measure(*run.load(run.steps), "val")
    return {run.steps: float(np.mean([numbers[name] for name in questions.chooses]))}


def arm_numbers(experiment: Experiment, name: str, seed: int, rate: float) -> dict:
    """Trains one arm on one seed if needed and measures its frozen encoder at the last and at the chosen step."""
    run = experiment.run(ARMS[name], seed, rate)
    scores = _choosing_scores(experiment, run)
    chosen = max(scores, key=scores.get)
    last = experiment.measure(*run.load(run.steps), "test")
    at_chosen = last if chosen == run.steps else experiment.measure(*run.load(chosen), "test")
    return {"last": last, "chosen": at_chosen, "chosen_step": chosen, "health": run.health()}


def untrained_numbers(experiment: Experiment, seed: int) -> Numbers:
    """Scores of the random weights that a run of this seed starts from."""
    task = build_task(load_config(f"configs/evidence.py:{experiment.questions.config}"))
    params = jax.jit(task.init, compiler_options=quick_compilation())(stream(seed, "init"))
    return experiment.measure(task, params, "test")


def reference_numbers(experiment: Experiment, features: Features) -> Numbers:
    """Scores of features that need no network."""
    task = build_task(load_config(f"configs/evidence.py:{experiment.questions.config}"))
    return numbers_of(experiment.questions.evaluators(task, "test", features), {})


class Results(NamedTuple):
    """Everything measured: title -> seed -> numbers, at the last step and at the chosen one, and what was chosen."""

    last: dict[str, dict[int, Numbers]]
    chosen: dict[str, dict[int, Numbers]]
    health: dict[str, dict[int, Numbers]]
    rates: dict[str, dict]
    steps: dict[str, dict[int, int]]


def seeds_of(name: str, seeds: int) -> range:
    """The seeds of an arm: the main ones get all."""
    return range(seeds if name in MAIN_ARMS else min(seeds, OTHER_SEEDS))


def collect(experiment: Experiment, names: Sequence[str], seeds: int, factors: Sequence[float]) -> Results:
    """Chooses rates, then runs seed by seed, so that an interrupted experiment has whole seeds."""
    results, workdir = Results({}, {}, {}, {}, {}), experiment.workdir
    budget = {"steps": experiment.steps, "questions": experiment.questions.config, "split": experiment.questions.split}
    for name in names:
        base = load_config(f"configs/evidence.py:arm={ARMS[name].config},{experiment.questions.config}").optim.base_lr
        asked = budget | {"arm": name, "factors": list(factors), "decides": "last step"}
        compute = partial(choose_rate, experiment, name, [base * factor for factor in factors])
        results.rates[ARMS[name].title] = cached(workdir / f"{name}-rate.json", asked, compute)
    for seed in range(seeds):
        for name in (name for name in names if seed in seeds_of(name, seeds)):
            title, rate = ARMS[name].title, results.rates[ARMS[name].title]["rate"]
            print(f"seed {seed}: {title}", flush=True)
            asked = budget | {"arm": name, "seed": seed, "rate": rate}
            compute = partial(arm_numbers, experiment, name, seed, rate)
            numbers = cached(workdir / f"{name}-seed{seed}.json", asked, compute)
            for part in ("last", "chosen", "health"):
                getattr(results, part).setdefault(title, {})[seed] = numbers[part]
            results.steps.setdefault(title, {})[seed] = numbers["chosen_step"]
        compute = partial(untrained_numbers, experiment, seed)
        numbers = cached(workdir / f"random-seed{seed}.json", budget | {"seed": seed}, compute)
        results.last.setdefault("random weights", {})[seed] = numbers
    for title, features in experiment.questions.references.items():
        name = "-".join(title.replace(",", "").split())
        results.last[title] = {
            0: cached(workdir / f"{name}.json", budget, partial(reference_numbers, experiment, features))
        }
    return results


def text(results: Results, note: str) -> Iterator[str]:
    """The tables and sentences in Markdown."""
    ours = ARMS["sigma"].title
    yield "Frozen features at the last step, top-1 in per cent:\n\n" + arms.markdown(arms.table(results.last, "arm"))
    yield "At the step chosen on other clips:\n\n" + arms.markdown(arms.table(results.chosen, "arm"))
    used = {title: seeds for title, seeds in results.health.items() if any(seeds.values())}
    if used:
        yield "Use of prototypes at the end, per cent of K, and entropy, per cent of ln K:\n\n" + arms.markdown(
            arms.table(used, "arm")
        )
    rates = []
    for title, choice in results.rates.items():
        scores = ", ".join(f"{rate}: {score:.1f}" for rate, score in choice["scores"].items())
        steps = ", ".join(map(str, results.steps[title].values()))
        rates.append(f"- {title}: {choice['rate']:.3g} ({scores or 'not chosen'}); chosen steps {steps}")
    yield (
        "Base learning rates (score on the clips that choose after the last step, one seed) and steps:\n\n"
        + "\n".join(rates)
    )
    yield note
    found = [f"- last step, {line}" for line in arms.findings(results.last, ours)]
    found += [f"- chosen step, {line}" for line in arms.findings(results.chosen, ours)]
    yield "SIGMA-MLP, paired by seed, with the 95 % interval of the mean difference:\n\n" + "\n".join(found)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("evidence", __doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of all runs and the tables")
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="shards of moving shapes, or of any videos with --questions=time"
    )
    parser.add_argument("--questions", choices=("labels", "time"), default="labels")
    parser.add_argument("--split", default="train", help="split whose videos are used, with --questions=time")
    parser.add_argument("--arms", default=",".join(ARMS), help="arms, separated by commas; sigma must be first")
    parser.add_argument(
        "--seeds", type=int, default=5, help=f"seeds of sigma and pixel; others get {OTHER_SEEDS} at most"
    )
    parser.add_argument("--steps", type=int, default=3000, help="training steps of each arm")
    parser.add_argument(
        "--rates", default="0.333,1,3", help="learning rates to choose from, as factors of the config's"
    )
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.steps < 3:
        parser.error(f"got --seeds={args.seeds} --steps={args.steps}: expected 1 or more seeds, 3 or more steps")
    names = args.arms.split(",")
    if names[0] != "sigma" or not set(names) <= set(ARMS) or len(set(names)) != len(names):
        parser.error(f"got --arms={args.arms}: expected sigma, then any of {', '.join(list(ARMS)[1:])}")
    try:
        args.factors = [float(word) for word in args.rates.split(",")]
    except ValueError:
        args.factors = []
    if not args.factors or min(args.factors) <= 0:
        parser.error(f"got --rates={args.rates}: expected numbers above 0, separated by commas")
    return args


def run(args: argparse.Namespace) -> int:
    """Runs the experiment and writes its tables."""
    data_dir, names = args.data_dir.absolute(), args.arms.split(",")
    questions = label_questions(data_dir) if args.questions == "labels" else time_questions(data_dir, args.split)
    experiment = Experiment(args.workdir.absolute(), questions, args.steps)
    results = collect(experiment, names, args.seeds, args.factors)
    command = f"python -m sigma_jax.tools.evidence --workdir={args.workdir} --data_dir={args.data_dir} "
    command += f"--questions={args.questions} --split={args.split} --arms={args.arms} --seeds={args.seeds} "
    command += f"--steps={args.steps} --rates={args.rates}"
    note = (
        f"Mean ± standard deviation over seeds, {args.steps} steps. `{command}`, {datetime.date.today()}, "
        f"version {__version__}, commit {commit()}."
    )
    paragraphs = list(text(results, note))
    (args.workdir / "evidence.json").write_text(json.dumps({**results._asdict(), "note": note}, indent=2) + "\n")
    (args.workdir / "evidence.md").write_text("\n\n".join(paragraphs) + "\n")
    folders = {
        ARMS[name].title: [
            args.workdir / f"{name}-seed{seed}-lr{results.rates[ARMS[name].title]['rate']:.3g}"
            for seed in seeds_of(name, args.seeds)
        ]
        for name in names
    }
    metrics = {title: [folder / "metrics.jsonl" for folder in found] for title, found in folders.items()}
    picture = write_comparison(args.workdir / "curves.png", metrics)
    first = folders[ARMS["sigma"].title][0]
    page = RunPage(
        title="Evidence run",
        summary=note.replace("`", "") + " " + " ".join(arms.findings(results.last, ARMS["sigma"].title)),
        command=command,
        config=(first / "config.json").read_text(),
        versions=json.loads((first / "versions.json").read_text()),
        results=arms.table(results.last, "arm"),
        pictures=[Picture(picture, "Curves of all arms over steps", "Mean over seeds; the band spans the seeds.")],
    )
    print("\n\n".join(paragraphs))
    print(f"\npage: {write_page(args.workdir / 'report.html', page)}")
    return 0


main = Command("evidence", parse, run, after_stop="The same command goes on")

if __name__ == "__main__":
    leave(main())
