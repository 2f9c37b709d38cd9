"""Runs all benchmarks of this repository on one GPU within a time budget, the most important ones first.

    launch/measure_gpu.sh [--budget=500] [--folder=/tmp/sigma_measure] [--only=STAGE,STAGE] [--list] [--smoke]
    python -m sigma_jax.tools.measure ...                                                        the same

To be run in the repository's folder. The same command goes on with what is not done. --smoke: the same stages in tiny
sizes, on a CPU. FOLDER holds results.jsonl (a line per finished stage), summary.txt (the table that is printed last),
logs, environment.txt, the compiled step's text and a trace. The peer needs PyTorch: --peer_python names an interpreter
that has it; without it these stages are skipped.
"""

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

from sigma_jax.runtime.command import Command, WrongUsage, command_parser, leave
from sigma_jax.tools.benchmarks.campaign import Campaign
from sigma_jax.tools.benchmarks.goals import table
from sigma_jax.tools.benchmarks.stages import PYTHON, Stage, stages


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("measure", __doc__)
    parser.add_argument("--budget", type=float, default=500, help="seconds for all stages together")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/sigma_measure"))
    parser.add_argument("--only", default="", help="names of stages, separated by commas")
    parser.add_argument("--list", action="store_true", help="print the stages and end")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--peer_python", default=PYTHON)
    return parser.parse_args(argv)


def choose(every: list[Stage], only: str, has_torch: bool) -> list[Stage]:
    """The stages that were asked for; those of the peer only where PyTorch is.

    Raises:
      WrongUsage: a stage that does not exist.
    """
    names = [name for name in only.split(",") if name]
    unknown = set(names) - {stage.name for stage in every}
    if unknown:
        known = ", ".join(stage.name for stage in every)
        raise WrongUsage(f"--only={only}: no stage is called {', '.join(sorted(unknown))}; there are {known}")
    return [stage for stage in every if (not names or stage.name in names) and (has_torch or not stage.peer)]


def environment() -> str:
    """Description of the machine: the output of nvidia-smi, pip and others."""
    told = [platform.platform(), f"{os.cpu_count()} processors", sys.version]
    for command in (["nvidia-smi"], ["git", "rev-parse", "HEAD"], [PYTHON, "-m", "pip", "list", "--format=freeze"]):
        try:
            told.append(subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout)
        except (OSError, subprocess.TimeoutExpired) as error:
            told.append(f"{command[0]}: {error}")
    return "\n".join(told)


def measure(args: argparse.Namespace) -> int:
    """Measures within the budget, prints the table; 1 if a stage failed."""
    probe = [args.peer_python, "-c", "import torch"]
    has_torch = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    chosen = choose(stages(args.smoke), args.only, has_torch)
    if args.list:
        print("\n".join(f"{stage.name:32s} needs {stage.needs} s" for stage in chosen))
        return 0
    campaign = Campaign(args.folder, args.budget, args.peer_python)
    (args.folder / "environment.txt").write_text(environment())
    if not has_torch:
        print(f"{args.peer_python} has no PyTorch: the authors' step is not measured (--peer_python)")
    try:
        campaign.run(chosen)
    finally:
        text = table(campaign.rows())
        (args.folder / "summary.txt").write_text(text + "\n")
        print(text)
    last = {row["stage"]: row["status"] for row in campaign.rows()}
    return int(any(last.values()))


main = Command("measure", parse, measure, after_stop="The same command goes on")

if __name__ == "__main__":
    leave(main())
