"""Measures our program and another one in turn, each in a process of its own, on the same machine."""

import json
import shlex
import statistics
import subprocess
import sys
from typing import Any


def read_row(output: str) -> dict[str, Any] | None:
    """The last line of `output` that is a JSON object with "median_s"; None if there is none."""
    for line in reversed(output.splitlines()):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("median_s"), int | float):
            return row
    return None


def _without_vs(words: list[str]) -> list[str]:
    """The command line of one measurement of ours: no --vs, --rounds; always --json."""
    kept, skip = [], False
    for word in words:
        name = word.lstrip("-").partition("=")[0]
        if skip:
            skip = False
        elif word.startswith("--") and name in ("vs", "rounds"):
            skip = "=" not in word
        elif word not in ("--json", "--nojson"):
            kept.append(word)
    return [*kept, "--json"]


def _run(command: list[str], who: str) -> dict[str, Any] | None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    row = read_row(done.stdout)
    if row is None:
        tail = (done.stdout + done.stderr).strip()[-500:]
        print(
            f"{who} ({shlex.join(command)}) exited with {done.returncode} and printed no line of JSON with a "
            f'"median_s"; the end of its output:\n{tail}',
            file=sys.stderr,
        )
    return row


def _middle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row whose median_s is the median (the lower one of two), its peak memory the largest of all."""
    row = dict(sorted(rows, key=lambda r: r["median_s"])[(len(rows) - 1) // 2])
    row["rounds_median_s"] = [round(r["median_s"], 5) for r in rows]
    return row


def alternate(words: list[str], peer: list[str], rounds: int, as_json: bool) -> int:
    """Measures ours (`words`: mode and flags) and the command `peer` in turn and prints both and their ratios.

    A peer that prints no JSON is reported and left out; our rows stay. Returns the exit status: 1 if a row is missing.
    """
    ours_command = [sys.executable, "-m", "sigma_jax.tools.bench", *_without_vs(words)]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_run(ours_command, "ours"))
        if None not in theirs:
            theirs.append(_run(peer, "the --vs program"))
    if None in ours:
        return 1
    result = {"ours": _middle(ours)}
    if None not in theirs:
        result["theirs"] = _middle(theirs)
        pairs = list(zip(ours, theirs, strict=True))
        result["speedup"] = statistics.median(t["median_s"] / o["median_s"] for o, t in pairs)
        if all("cpu_s" in row for pair in pairs for row in pair):
            result["cpu_speedup"] = statistics.median(t["cpu_s"] / o["cpu_s"] for o, t in pairs)
        if "peak_rss_mb" in result["theirs"]:
            result["rss_ratio"] = result["ours"]["peak_rss_mb"] / result["theirs"]["peak_rss_mb"]
    if as_json:
        print(json.dumps(result))
    else:
        _show(result)
    return int(None in theirs)


def _show(result: dict[str, Any]) -> None:
    ours, theirs = result["ours"], result.get("theirs", {})
    print(f"  {'':<24} {'ours':<24} {'theirs' if theirs else ''}")
    for name in dict.fromkeys((*ours, *theirs)):
        cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in (ours.get(name, ""), theirs.get(name, "")))
        print("  {:<24} {:<24} {}".format(name, *cells))
    for name in ("speedup", "cpu_speedup", "rss_ratio"):
        if name in result:
            print(f"  {name:<24} {result[name]:.3f}")
