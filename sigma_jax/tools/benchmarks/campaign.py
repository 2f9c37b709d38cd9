"""Runs stages within a budget of seconds and writes a line of results.jsonl as soon as one has finished.

Started again, it runs the stages that have no result yet, so that an interruption loses only the stage it hit.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from sigma_jax.tools.benchmarks.stages import PYTHON, Stage


class Campaign:
    """Runs stages on this machine and keeps their results in a folder."""

    def __init__(self, folder: Path, budget: float, peer_python: str):
        self.folder, self._ends, self._peer = folder, time.monotonic() + budget, peer_python
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        self.results = folder / "results.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the stages that have finished."""
        if not self.results.exists():
            return []
        return [json.loads(line) for line in self.results.read_text().splitlines()]

    def run(self, wanted: Iterable[Stage]) -> None:
        """Runs the stages that have no result and fit into the rest of the budget."""
        done = {row["stage"] for row in self.rows() if row["status"] == 0}
        for beside, group in groupby(wanted, key=lambda stage: stage.beside):
            todo = [stage for stage in group if stage.name not in done]
            for together in [todo] if beside else [[stage] for stage in todo]:
                self._run_together(together)

    def _run_together(self, together: list[Stage]) -> None:
        running = []
        for stage in together:
            left = self._ends - time.monotonic()
            if left < stage.needs:
                print(f"skip {stage.name}: needs {stage.needs} s, {left:.0f} s left", flush=True)
                continue
            print(f"{stage.name} ...", flush=True)
            running.append((stage, self._start(stage), time.monotonic(), min(stage.limit, left)))
        try:
            for stage, process, begun, limit in running:
                status = _wait(process, begun + limit)
                self._keep(stage, status, time.monotonic() - begun)
        finally:  # also when the campaign itself is ended
            for _, process, _, _ in running:
                _end(process)

    def _start(self, stage: Stage) -> subprocess.Popen:
        places = {"folder": str(self.folder), "data": str(self.folder / "data")}
        words = [word.replace("{folder}", places["folder"]).replace("{data}", places["data"]) for word in stage.words]
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        cache |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
        with self._log(stage, "out").open("w") as out, self._log(stage, "err").open("w") as err:
            return subprocess.Popen(
                [self._peer if stage.peer else PYTHON, *words],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                env=os.environ | cache | dict(stage.environment),
                start_new_session=True,  # so that its workers can be ended with it
            )

    def _log(self, stage: Stage, kind: str) -> Path:
        return self.folder / "logs" / f"{stage.name}.{kind}"

    def _keep(self, stage: Stage, status: int, seconds: float) -> None:
        rows = []
        for line in self._log(stage, "out").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(row := json.loads(line), dict):
                    rows.append(row)
        if not rows:
            tail = self._log(stage, "err").read_text(errors="replace").strip().splitlines()
            rows = [{} if status == 0 else {"error": tail[-1] if tail else f"status {status} and no output"}]
        with self.results.open("a") as file:
            for row in rows:
                file.write(
                    json.dumps({"stage": stage.name, "status": status, "wall_s": round(seconds, 1), **row}) + "\n"
                )
        found = ", ".join(f"{1e3 * row['median_s']:.2f} ms" for row in rows if "median_s" in row)
        print(f"{stage.name}: status {status}, {seconds:.1f} s {found or rows[0].get('error', '')}", flush=True)


def _wait(process: subprocess.Popen, until: float) -> int:
    """The exit status; 124 for a process that had to be ended."""
    try:
        return process.wait(max(until - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        _end(process)
        return 124


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
