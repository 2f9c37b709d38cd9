"""Writes the model zoo's page from its manifest.

python -m sigma_jax.tools.model_zoo                 launch/model_zoo.toml -> launch/MODEL_ZOO.md
"""

import argparse
import tomllib
from pathlib import Path

from sigma_jax.runtime.command import Command, command_parser, leave
from sigma_jax.runtime.errors import InvalidValue

NEEDED = ("name", "published", "method", "data", "inside", "place", "licence")
OPTIONAL = {"epochs": "", "bytes": "not checked", "sha256": "not checked", "numbers": "", "command": ""}
OURS = ("bytes", "sha256", "command")
HEAD = """# Model zoo

<!-- written by python -m sigma_jax.tools.model_zoo from launch/model_zoo.toml: change that -->

What exists, and where. Files of others are their authors' and keep their authors' terms: a converted file is still
under the licence of its source. "Not checked" means that we have not held the file ourselves. How to convert and load:
[WEIGHTS.md](WEIGHTS.md).
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("model_zoo", __doc__)
    parser.add_argument("--manifest", type=Path, default=Path("launch/model_zoo.toml"))
    parser.add_argument("--out", type=Path, default=Path("launch/MODEL_ZOO.md"))
    return parser.parse_args(argv)


def model_zoo(args: argparse.Namespace) -> int:
    """Reads the manifest, writes the page."""
    try:
        text = page(tomllib.loads(args.manifest.read_text()))
    except ValueError as error:  # of TOML or of an entry
        raise InvalidValue(f"{args.manifest}: {error}") from error
    args.out.write_text(text)
    print(f"{args.out}: written from {args.manifest}")
    return 0


def page(manifest: dict) -> str:
    """The page in Markdown.

    Raises:
      ValueError: an entry without a needed field, with an unknown one, or a file of ours without bytes and hash.
    """
    entries = [checked(entry) for entry in manifest.get("file", [])]
    parts = [HEAD]
    for who, title in (("us", "## Trained here"), ("others", "## Published by others")):
        chosen = [entry for entry in entries if entry["published"] == who]
        parts.append(f"{title}\n\n" + ("\n\n".join(map(section, chosen)) if chosen else "None yet.") + "\n")
    return "\n".join(parts)


def checked(entry: dict) -> dict:
    """An entry with every field, or ValueError."""
    name = entry.get("name", "?")
    missing = [field for field in NEEDED if not entry.get(field)]
    unknown = sorted(entry.keys() - set(NEEDED) - OPTIONAL.keys())
    if missing or unknown:
        raise InvalidValue(f"{name}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    if entry["published"] not in ("us", "others"):
        raise InvalidValue(f"{name}: published={entry['published']!r}, expected 'us' or 'others'")
    lacking = [field for field in OURS if not entry.get(field)]
    if entry["published"] == "us" and lacking:
        raise InvalidValue(f"{name}: a file of ours needs {', '.join(lacking)}")
    return OPTIONAL | entry


def section(entry: dict) -> str:
    """One file."""
    rows = {
        "method": entry["method"],
        "data": entry["data"],
        "epochs": entry["epochs"],
        "inside": entry["inside"],
        "where": entry["place"],
        "bytes": entry["bytes"],
        "sha256": entry["sha256"],
        "licence": entry["licence"],
        "numbers": entry["numbers"],
        "command": entry["command"],
    }
    return f"### {entry['name']}\n\n| | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in rows.items() if v)


main = Command("model_zoo", parse_arguments, model_zoo)

if __name__ == "__main__":
    leave(main())
