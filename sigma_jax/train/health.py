"""Health checks of a run: warnings with advice, the limit of non-finite steps, and a dump of the last such step."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Thresholds of the warnings; shares are in [0, 1]."""

    stuck_tolerance: float = 0.01  # the loss counts as "at ln K" while |loss / ln K - 1| is at most this
    stuck_steps: int = 500  # so long at ln K before it is a warning
    min_prototypes_used: float = 0.05  # share of the prototypes
    min_entropy: float = 0.3  # entropy of the mean assignment, divided by ln K
    max_marginal_error: float = 0.1  # relative error of the prototypes' masses after the last Sinkhorn iteration
    max_wait_share: float = 0.3  # share of the step time that is spent waiting for data
    warmup_steps: int = 50  # no warning of collapse before this step: the values are normal at the start
    repeat_steps: int = 1000  # the same warning is repeated after so many steps at the earliest


class HealthMonitor:
    """Checks the metrics of each log line and returns warnings; remembers how long the loss is stuck and what was said.

    Args:
      num_prototypes: K; None for objectives without prototypes.
      limits: thresholds; None for the defaults.
    """

    def __init__(self, num_prototypes: int | None = None, limits: Limits | None = None):
        self._num_prototypes = num_prototypes
        self._limits = limits or Limits()
        self._stuck_since: int | None = None
        self._said: dict[str, int] = {}
        self._counts_said: dict[str, int] = {}

    def check(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """Warnings due at `step` (steps done); `metrics` are scalars by name, any of them may be missing."""
        numbers = {name: float(value) for name, value in metrics.items()}
        counts = {kind: int(numbers.get(kind, 0)) for kind in ("nonfinite_steps", "bad_videos")}
        found = {**self._stuck(step, numbers), **self._counted(counts, numbers), **_rates(numbers, step, self._limits)}
        if step >= self._limits.warmup_steps:
            for side in ("pred", "proj"):
                found.update(_collapse(numbers, side, self._num_prototypes, self._limits))
        due = [kind for kind in found if self._is_due(kind, step)]
        self._counts_said.update({kind: counts[kind] for kind in due if kind in counts})
        return [found[kind] for kind in due]

    def _is_due(self, kind: str, step: int) -> bool:
        if step - self._said.get(kind, -math.inf) < self._limits.repeat_steps:
            return False
        self._said[kind] = step
        return True

    def _stuck(self, step: int, numbers: Mapping[str, float]) -> dict[str, str]:
        """Loss / ln K at 1 means that the predicted distribution over prototypes is uniform."""
        ratio = numbers.get("loss_over_lnk")
        if ratio is None or not abs(ratio - 1) <= self._limits.stuck_tolerance:
            self._stuck_since = None
            return {}
        if self._stuck_since is None:
            self._stuck_since = step
        lasted = step - self._stuck_since
        if lasted < self._limits.stuck_steps:
            return {}
        return {
            "stuck": f"loss at ln K for {lasted} steps: the assignments carry no information, every prototype is "
            "predicted alike. Check that the learning rate has warmed up, lower epsilon or the temperature, raise the "
            "batch (at least as many hidden tubes as prototypes), or lower the number of prototypes."
        }

    def _counted(self, counts: Mapping[str, int], numbers: Mapping[str, float]) -> dict[str, str]:
        """Warnings about counters since the start of the run, due again only when a counter has grown."""
        run = int(numbers.get("nonfinite_run", 0))
        texts = {
            "nonfinite_steps": f"{counts['nonfinite_steps']} steps skipped so far because loss or gradients were not "
            f"finite ({run} in a row now). A few are harmless; if they go on, lower the learning rate or compute in "
            "float32.",
            "bad_videos": f"{counts['bad_videos']} videos could not be used so far and were replaced: see "
            "bad_records.jsonl.",
        }
        return {kind: text for kind, text in texts.items() if counts[kind] > self._counts_said.get(kind, 0)}


def _collapse(numbers: Mapping[str, float], side: str, num_prototypes: int | None, limits: Limits) -> dict[str, str]:
    """Signs of collapse on one side: `pred` (video model) or `proj` (projection network)."""
    found = {}
    used = numbers.get(f"prototypes_used_{side}", 1.0)
    if used < limits.min_prototypes_used:
        of = f" ({used * num_prototypes:.0f} of {num_prototypes})" if num_prototypes else ""
        found[f"used_{side}"] = (
            f"only {used:.1%} of the prototypes{of} are used by the {side} side: features have collapsed onto few of "
            "them. Lower the learning rate, raise the batch, or use fewer prototypes."
        )
    entropy = numbers.get(f"assignment_entropy_{side}", 1.0)
    if entropy < limits.min_entropy:
        found[f"entropy_{side}"] = (
            f"assignment entropy of the {side} side is {entropy:.2f} of ln K: the assignments are far from balanced. "
            "Run more Sinkhorn iterations or raise epsilon."
        )
    error = numbers.get(f"marginal_error_{side}", 0.0)
    if error > limits.max_marginal_error:
        found[f"marginal_{side}"] = (
            f"Sinkhorn marginal error of the {side} side is {error:.2g} after its last sweep: it has not converged. "
            "Run more iterations (num_iters) or raise epsilon."
        )
    return found


def _rates(numbers: Mapping[str, float], step: int, limits: Limits) -> dict[str, str]:
    found = {}
    step_ms, wait_ms = numbers.get("step_ms", 0.0), numbers.get("data_wait_ms", 0.0)
    if step_ms > 0 and wait_ms > limits.max_wait_share * step_ms:
        found["wait"] = (
            f"the device waits {wait_ms / step_ms:.0%} of each step ({wait_ms:.0f} of {step_ms:.0f} ms) for data. Use "
            "more workers, prepare smaller videos or JPEG frames, or read from a faster disk."
        )
    if step > 1 and numbers.get("lr") == 0.0:  # the first step of a warm-up is at zero by design
        found["lr"] = "the learning rate is zero: nothing is learned. Check base_lr and the schedule's lengths."
    return found


def should_stop(consecutive: int, limit: int) -> bool:
    """True when `consecutive` non-finite steps in a row have reached `limit`; a limit of 0 never stops."""
    return 0 < limit <= consecutive


def write_dump(
    workdir: str | Path, step: int, record_keys: Iterable[str], module_norms: Mapping[str, float]
) -> tuple[Path, str]:
    """Write `workdir/nonfinite_step_N.json` with the step, its records and its gradient norms.

    Args:
      record_keys: keys of the records in the step's batch.
      module_norms: gradient norm of each module, in the order of the forward pass.

    Returns:
      (path of the file, sentence naming the first module whose norm is not finite).
    """
    norms = {name: float(norm) for name, norm in module_norms.items()}
    first = next((name for name, norm in norms.items() if not math.isfinite(norm)), None)
    path = Path(workdir) / f"nonfinite_step_{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    dump = {
        "step": step,
        "first_nonfinite_module": first,
        "record_keys": [str(key) for key in record_keys],
        "module_norms": {name: norm if math.isfinite(norm) else str(norm) for name, norm in norms.items()},
    }
    path.write_text(json.dumps(dump, indent=2) + "\n")
    where = f"first in {first}" if first else "in the loss only, every module norm is finite"
    return path, f"step {step}: loss or gradient not finite, {where}; records and norms are in {path}"
