"""Gathers the eight scores of SEVERE into a row of the paper's table, under the published rows.

    python -m sigma_jax.tools.severe [--runs=DIR] [--name=NAME] [--out=DIR]

Looks for result.json below --runs; every run of configs/severe.py leaves one in its workdir/eval. A score that is
missing, twice there or incomplete is named, and then the Mean stays empty. With --out also writes severe.md, severe.txt
and severe.png. Without --runs: the published rows alone. Exit code 0: printed; 1: a score is missing; 2: wrong flags.
"""

import argparse
from pathlib import Path

from sigma_jax.evals.severe.table import Row, gather, published_rows, table_text
from sigma_jax.report.severe import write_severe
from sigma_jax.runtime.command import Command, command_parser, leave

LEGEND = (
    "Top-1 in per cent, UCF-RC: relative counting error, Charades: mAP in per cent. Mean: of the seven where higher is "
    "better and 100 (1 - error). Published rows: Salehi et al. 2024, ViT-B pre-trained on K400; its table prints 52.1 "
    "as the Mean of MVD."
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("severe", __doc__)
    parser.add_argument("--runs", type=Path, help="folder with the runs of one model")
    parser.add_argument("--name", default="", help="name of our row (default: the folder's)")
    parser.add_argument("--out", type=Path, help="folder for severe.md, severe.txt and severe.png")
    return parser.parse_args(argv)


def tabulate(args: argparse.Namespace) -> int:
    """Prints the table, and writes it where asked."""
    ours = [gather(args.runs, args.name)] if args.runs else []
    rows = [*published_rows(), *ours]
    text = f"{table_text(rows)}\n\n{LEGEND}\n{notes_text(ours)}"
    print(text, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "severe.txt").write_text(text)
        (args.out / "severe.md").write_text(f"{table_text(rows, markdown=True)}\n\n{LEGEND}\n{notes_text(ours)}")
        write_severe(args.out / "severe.png", rows, highlighted=len(ours))
        print(f"written: {args.out / 'severe.md'}, severe.txt, severe.png")
    return int(any(row.mean is None for row in ours))


def notes_text(rows: list[Row]) -> str:
    """One line per note, under a heading."""
    notes = [note for row in rows for note in row.notes]
    if not notes:
        return ""
    return "\nNotes on the last row:\n" + "".join(f"- {note}\n" for note in notes)


main = Command("severe", parse, tabulate)

if __name__ == "__main__":
    leave(main())
