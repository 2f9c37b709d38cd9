"""Mode `profile`: where the device's time goes, by part of the model and by kernel, from a trace of `step --trace=DIR`.

With --hlo, the text that `step --hlo=FILE` wrote, kernels are assigned to parts of the model by the names of their
operations. Kernels inside a CUDA graph carry the graph's name; for them only the library is known.
"""

import collections
import gzip
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tools.benchmarks.options import OPTIONS
from sigma_jax.tools.planning.kernels import part_of

TRACED_STEPS = 3  # by timing.time_calls
TOP = 12
LIBRARIES = (
    ("attention library", r"cudnn|fmha|flash"),
    ("matmul library", r"gemm|cutlass|nvjet|xmma|cublas|wgmma"),
    ("copies", r"emcpy|emset"),
)


class Run(NamedTuple):
    """One execution of a kernel, in microseconds."""

    kernel: str
    operation: str  # of the compiled program, where the trace says so
    start: float
    duration: float


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row of the newest trace below --trace."""
    if overrides or not OPTIONS.trace:
        raise InvalidValue("profile takes --trace=DIR, a folder that `bench step --trace=DIR` wrote, and --hlo only")
    files = sorted(Path(OPTIONS.trace).rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise InvalidValue(
            f"no *.trace.json.gz below {OPTIONS.trace}: write one with `bench step --trace={OPTIONS.trace}`"
        )
    with gzip.open(files[-1], "rt") as file:
        runs = kernel_runs(json.load(file)["traceEvents"])
    if not runs:
        raise InvalidValue(f"{files[-1]} holds no kernels of a device")
    return summary(runs, operation_names(OPTIONS.hlo) if OPTIONS.hlo else {})


def kernel_runs(events: list[dict[str, Any]]) -> list[Run]:
    """Kernels of the first kind of device in the trace: streams of GPUs, or operations on the host."""
    processes = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    devices = {pid for pid, name in processes.items() if "/device:" in name}
    found = []
    for event in events:
        if event.get("ph") != "X" or "dur" not in event:
            continue
        extra = event.get("args", {})
        on_stream = event["pid"] in devices and threads.get((event["pid"], event["tid"]), "").startswith("Stream")
        if on_stream or (not devices and "hlo_op" in extra):
            found.append(Run(event["name"], extra.get("hlo_op", extra.get("name", "")), event["ts"], event["dur"]))
    return found


def operation_names(path: str) -> dict[str, str]:
    """Instruction of a compiled program -> name of its operation; also under the name of the instruction's kernel."""
    names = {}
    with gzip.open(path, "rt") as file:
        for line in file:
            found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = .*op_name=\"([^\"]+)\"", line)
            if found:
                names[found.group(1)] = found.group(2)
    return {re.sub(r"[^0-9A-Za-z_]", "_", name): value for name, value in names.items()} | names


def summary(runs: list[Run], names: dict[str, str]) -> dict[str, Any]:
    """Milliseconds a step by part and by kernel, and the share of the time in which the device did nothing."""
    parts: collections.Counter[str] = collections.Counter()
    kernels: collections.Counter[str] = collections.Counter()
    for run in runs:
        operation = names.get(run.operation) or names.get(run.operation.split(":")[0]) or names.get(run.kernel, "")
        parts[part_of(operation) if operation else library_of(run.kernel)] += run.duration
        kernels[run.kernel[:60]] += run.duration
    span = max(run.start + run.duration for run in runs) - min(run.start for run in runs)
    busy = union([(run.start, run.start + run.duration) for run in runs])

    def per_step(counter):
        return {name: round(value / 1e3 / TRACED_STEPS, 3) for name, value in counter.most_common(TOP)}

    return {
        "mode": "profile",
        "median_s": busy / 1e6 / TRACED_STEPS,
        "idle_share": 1 - busy / span,
        "kernels_a_step": len(runs) / TRACED_STEPS,
        "parts_ms_a_step": per_step(parts),
        "kernels_ms_a_step": per_step(kernels),
    }


def library_of(kernel: str) -> str:
    """The library that a kernel comes from, by its name."""
    return next(
        (part for part, found in LIBRARIES if re.search(found, kernel, re.IGNORECASE)), "not in the program's text"
    )


def union(spans: list[tuple[float, float]]) -> float:
    """Total length of the union of (start, stop) spans."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
