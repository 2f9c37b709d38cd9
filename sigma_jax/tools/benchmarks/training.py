"""Runs the training command for some steps from shards, then again with more steps, which must resume.

    python -m sigma_jax.tools.benchmarks.training DATA WORKDIR [--steps=40] --config=... [flags of sigma_jax.main]

Prints one line of JSON with the step time that the run itself logged.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

KEPT = ("step", "loss", "step_ms", "data_wait_ms", "clips_per_s", "mfu")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    args, flags = parser.parse_known_args(argv)
    fixed = {"optim.warmup_steps": args.steps // 4, "log_every_steps": max(args.steps // 4, 1)}
    fixed |= {"checkpoint.save_every_steps": 10**6, "checkpoint.keep_every_steps": 0}
    command = [sys.executable, "-m", "sigma_jax.main", f"--data_dir={args.data_dir}", f"--workdir={args.workdir}"]
    command += ["--random_teacher", "--noreport", "--allow_config_change", *flags]
    command += [f"--config.{name}={value}" for name, value in fixed.items()]
    row: dict = {}
    for name, total in (("first", args.steps), ("resumed", args.steps + args.steps // 4)):
        begin = time.perf_counter()
        done = subprocess.run([*command, f"--config.total_steps={total}"], capture_output=True, text=True, check=False)
        row[f"{name}_s"] = time.perf_counter() - begin
        if done.returncode:
            print((done.stdout + done.stderr)[-1500:], file=sys.stderr)
            return done.returncode
    row["resumed"] = f"resumed from step {args.steps}" in done.stdout + done.stderr
    lines = [json.loads(line) for line in (args.workdir / "metrics.jsonl").read_text().splitlines()]
    row["log"] = [{name: line[name] for name in KEPT if name in line} for line in lines]
    times = [line["step_ms"] / 1e3 for line in row["log"] if "step_ms" in line]
    print(json.dumps({"median_s": sorted(times)[len(times) // 2], **row}))
    return 0 if row["resumed"] else 1


if __name__ == "__main__":
    sys.exit(main())
