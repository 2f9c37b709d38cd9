"""Searches the largest batch per chip that fits, with few compilations."""

from collections.abc import Callable
from typing import NamedTuple

from sigma_jax.tasks.base import Task
from sigma_jax.tools.planning.forecast import Compiled, DoesNotFit


class Fit(NamedTuple):
    """Outcome of the search: `clips` per chip compiled and fits (0: none tried did), `refused` did not (0: none)."""

    clips: int
    refused: int
    compiles: int


def largest_batch(
    attempt: Callable[[int], Compiled], first: tuple[int, Compiled | DoesNotFit], capacity: float, compiles: int
) -> Fit:
    """Secant search over clips per chip: memory is taken as linear in the batch, and every guess is compiled.

    Args:
      attempt: compiles the step at so many clips per chip, or raises DoesNotFit.
      first: clips per chip and outcome of the plan itself.
      capacity: bytes of memory that the compiler may use.
      compiles: how many more compiles are allowed.
    """
    clips, outcome = first
    known: dict[int, float] = {}
    fits, refused, used = 0, 0, 0
    while True:
        fixed = 0.0
        if isinstance(outcome, Compiled):
            fits = max(fits, clips)
            known[clips] = outcome.total
            fixed = outcome.total - outcome.memory["temporaries"]
        else:
            refused = min(refused or clips, clips)
            known[clips] = outcome.needed
        guess = _guess(known, fixed, capacity)
        upper = refused - 1 if refused else guess
        guess = max(1, min(_round_down(guess), upper))
        if used >= compiles or guess in known or guess <= fits:
            return Fit(fits, refused, used)
        clips, used = guess, used + 1
        try:
            outcome = attempt(clips)
        except DoesNotFit as shortage:
            outcome = shortage


def _guess(known: dict[int, float], fixed: float, capacity: float) -> int:
    (low, low_bytes), *_ = sorted(known.items())
    if len(known) == 1:
        slope = (low_bytes - fixed) / low
        return int((capacity - fixed) / slope)
    high, high_bytes = sorted(known.items())[-1]
    slope = max((high_bytes - low_bytes) / (high - low), 1.0)
    return int(low + (capacity - low_bytes) / slope)


def _round_down(clips: int) -> int:
    """Rounds down to a multiple of 8 from 16 on, which matrix units prefer."""
    return clips // 8 * 8 if clips >= 16 else clips


def advice(needed: float, available: float, task: Task, clips: int) -> list[str]:
    """What to change when `clips` per chip do not fit, best first."""
    smaller = max(1, _round_down(int(clips * available / needed * 0.95)))
    lines = [f"take {smaller} clips per chip: more chips, --config.batch_size, or --batch_per_chip={smaller}"]
    lines.append(
        f"or keep the batch and split the step: --config.max_batch_per_device={smaller} "
        "(gradient accumulation; Sinkhorn then balances fewer clips at a time)"
    )
    if task.compute.remat != "full":
        lines.append("recompute blocks in the backward pass: --config.compute.remat=full (about 1/3 more FLOPs)")
    if task.mesh.shape["fsdp"] == 1:
        lines.append("split parameters and moments over chips: --config.mesh.fsdp=8")
    return lines
