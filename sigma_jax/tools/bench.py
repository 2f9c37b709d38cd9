"""Measures speed and memory: medians after warm-up, with other programs measured in turn.

    python -m sigma_jax.tools.bench step --config=configs/k400.py:size=S --batch=2 [--config.compute.dtype=float32]
    python -m sigma_jax.tools.bench objective [--tokens=8192 --prototypes=3000 --iterations=10]
    python -m sigma_jax.tools.bench attention [--shape=2,1568,6,64]
    python -m sigma_jax.tools.bench segmentation [--clips=30 --protocol=clustering] [--vs=faiss]
    python -m sigma_jax.tools.bench probe_grid [--probe_depth=1 --grid_tokens=16,1568,384 --encoder_depth=12]
    python -m sigma_jax.tools.bench compile --config=configs/k400.py:size=S --batch=2
    python -m sigma_jax.tools.bench agreement [--tokens=8192 --prototypes=3000]
    python -m sigma_jax.tools.bench fp8_teacher [--teacher=dino.pth --teacher_clips=4]
    python -m sigma_jax.tools.bench end_to_end --data_dir=DIR --config=configs/k400.py:size=S --batch=2 [--workers=16]
    python -m sigma_jax.tools.bench profile --trace=DIR [--hlo=step.hlo.gz]    (reads what `step --trace --hlo` wrote)
    python -m sigma_jax.tools.bench data --data_dir=DIR [--workers=0,1,2]     (its own flags: data --help)

Every mode takes --json (one object on one line instead of a table), --trace=DIR (a profiler trace, for TensorBoard or
Perfetto), --repeats=N, and --vs=COMMAND: ours and COMMAND then run in turn, --rounds times, each in its own process.
COMMAND must print one line of JSON with at least "median_s". `segmentation --vs=faiss` runs our own program of PyTorch
and faiss, in --peer_python where another interpreter has them.
"""

import importlib
import json
import shlex
import sys
from types import ModuleType

from sigma_jax.runtime import config as configs
from sigma_jax.runtime.command import Command, HelpWanted, WrongUsage, leave, parse_flags
from sigma_jax.runtime.execution import choose_platform
from sigma_jax.tools.benchmarks import data, peers
from sigma_jax.tools.benchmarks.options import OPTIONS

# Mode -> module with `measure(overrides) -> dict`; its flags are defined when it is imported.
MODES = {
    "step": "sigma_jax.tools.benchmarks.step",
    "objective": "sigma_jax.tools.benchmarks.objective",
    "attention": "sigma_jax.tools.benchmarks.attention",
    "segmentation": "sigma_jax.tools.benchmarks.segmentation",
    "probe_grid": "sigma_jax.tools.benchmarks.probe_grid",
    "compile": "sigma_jax.tools.benchmarks.compile",
    "agreement": "sigma_jax.tools.benchmarks.agreement",
    "fp8_teacher": "sigma_jax.tools.benchmarks.fp8_teacher",
    "end_to_end": "sigma_jax.tools.benchmarks.end_to_end",
    "profile": "sigma_jax.tools.benchmarks.profile",
}


def show(row: dict) -> None:
    """One number per line; numbers to four digits."""
    for name, value in row.items():
        text = f"{value:.4g}" if isinstance(value, float) else value
        print(f"  {name:<24} {text}")


def parse(argv: list[str]) -> tuple[ModuleType, dict[str, str], list[str]]:
    """(module of the mode, --config.x=y, the words behind the program's name); other flags go to OPTIONS."""
    if len(argv) < 2 or argv[1] not in MODES:
        if set(argv[1:]) & {"--help", "-h"}:
            raise HelpWanted(__doc__)
        got = repr(argv[1]) if len(argv) > 1 else "nothing"
        raise WrongUsage(f"expected a mode, one of {', '.join([*MODES, 'data'])}; got {got}")
    mode = importlib.import_module(MODES[argv[1]])
    rest, overrides = configs.split_command_line([argv[0], *argv[2:]])
    unexpected = parse_flags(OPTIONS, rest, __doc__)
    if unexpected:
        raise WrongUsage(f"got {unexpected[0]!r} after the mode: only flags may follow it, --name=value")
    return mode, overrides, argv[1:]


def bench(given: tuple[ModuleType, dict[str, str], list[str]]) -> int:
    """Measures and prints a row; returns the exit status."""
    mode, overrides, words = given
    if OPTIONS.vs:
        named = getattr(mode, "peer_command", lambda name: None)(OPTIONS.vs)
        return peers.alternate(words, named or shlex.split(OPTIONS.vs), OPTIONS.rounds, OPTIONS.json)
    choose_platform(OPTIONS.platform)
    row = mode.measure(overrides)
    if OPTIONS.json:
        print(json.dumps(row))
    else:
        show(row)
    return 0


measure_mode = Command("bench", parse, bench)


def main(argv: list[str]) -> int:
    """The mode `data` has a command line of its own."""
    return data.main(argv[2:]) if argv[1:2] == ["data"] else measure_mode(argv)


if __name__ == "__main__":
    leave(main(sys.argv))
