"""Compares the curves of a run with those of reference runs of the same experiment.

    python -m sigma_jax.tools.compare runs/demo [launch/reference/demo]
    python -m sigma_jax.tools.compare --make=launch/reference/demo RUN RUN RUN     (a reference of your own runs)

RUN is the folder of a run, finished or not. Without a reference the one in launch/reference that fits the run's config
is taken. The band spans the reference's seeds, widened by their own spread; a curve that stays outside for three log
lines has left it. Prints where and what it may mean, and draws RUN/pictures/compare.png.

Exit status: 0 inside every band; 3 some curve left its band; 1 nothing can be compared; 2 wrong flags.
"""

import argparse
import datetime
import json
from pathlib import Path

from sigma_jax.report.reference import (
    Reference,
    departures,
    differences,
    read_curves,
    read_reference,
    write_bands,
    write_reference,
)
from sigma_jax.runtime.command import Command, command_parser, leave
from sigma_jax.runtime.config import load_json, shipped
from sigma_jax.runtime.errors import InvalidValue, NotThere

SHIPPED = shipped("launch/reference")
DEPARTED = 3


def find_reference(recorded: dict) -> Reference:
    """The shipped reference of the same experiment as the run.

    Raises:
    InvalidValue: there is none; lists those that exist.
    """
    folders = sorted(path.parent for path in SHIPPED.glob("*/reference.json"))
    reasons = []
    for folder in folders:
        reference = read_reference(folder)
        try:
            differences(recorded, reference)
        except InvalidValue as error:
            reasons.append(str(error))
        else:
            return reference
    raise InvalidValue(
        f"no reference in {SHIPPED} is of this run's experiment: "
        + ("; ".join(reasons) or "there is none at all")
        + ". Make one of runs that went well: --make=FOLDER RUN RUN RUN"
    )


def compare(run: Path, reference_folder: Path | None) -> int:
    """Prints the comparison and draws it; returns the exit status."""
    if not (run / "config.json").is_file():
        raise NotThere(f"{run} is no folder of a run: expected config.json and metrics.jsonl in it")
    config = load_json(run / "config.json").to_dict()
    reference = read_reference(reference_folder) if reference_folder else find_reference(config)
    changed = differences(config, reference)
    curves = read_curves(run / "metrics.jsonl")
    found = departures(curves, reference)
    last = max(int(steps[-1]) for steps, _ in curves.values())
    print(
        f"{run} against the reference {reference.name} ({len(reference.seeds)} seeds, {reference.origin}), "
        f"up to step {last}"
    )
    for line in changed:
        print(f"  another setting than the reference: {line}")
    for departure in found:
        print(f"  {departure.sentence()}")
    picture = write_bands(run / "pictures" / "compare.png", curves, reference)
    verdict = f"{len(found)} curves left their band" if found else "normal: every curve stays inside its band"
    print(f"{verdict} (picture: {picture})")
    return DEPARTED if found else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("compare", __doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, and optionally of a reference"
    )
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="write a reference of these runs instead")
    args = parser.parse_args(argv)
    if args.make is None and len(args.runs) > 2:
        parser.error(f"got {len(args.runs)} folders: expected a run and at most one reference, or --make=FOLDER")
    return args


def run(args: argparse.Namespace) -> int:
    """Compares, or makes a reference."""
    if args.make is None:
        return compare(args.runs[0], args.runs[1] if len(args.runs) > 1 else None)
    for folder in args.runs:
        if not (folder / "config.json").is_file():
            raise NotThere(f"{folder} is no folder of a run: expected config.json and metrics.jsonl in it")
    first = args.runs[0]
    made = json.loads((first / "versions.json").read_text()).get("commit", "unknown")
    date = str(datetime.date.fromtimestamp((first / "metrics.jsonl").stat().st_mtime))
    command = (first / "command.txt").read_text().strip()
    write_reference(args.make, args.runs, {"commit": made, "date": date, "command": command})
    print(f"{args.make}: a reference of {len(args.runs)} runs")
    return 0


main = Command("compare", parse, run)


if __name__ == "__main__":
    leave(main())
