"""Learning rate schedules.

The cosine is that of the authors' recipe (golden `schedule.npz`): a linear warm-up that includes its end point, so that
the peak occurs twice (last warm-up step, first cosine step), then a half cosine that stops one step short of the final
value.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.runtime.errors import InvalidValue


def cosine_with_warmup(
    base_value: float,
    final_value: float,
    total_steps: int,
    warmup_steps: int = 0,
    start_warmup_value: float = 0.0,
) -> Callable[[Any], Any]:
    """Linear warm-up from `start_warmup_value` to `base_value`, then a half cosine towards `final_value`.

    Returns:
      Function of the step (int or array, counted from 0) to the value: fp32 inside jit, float64 outside. Steps beyond
      the last have the last value.

    Raises:
      InvalidValue: unless 0 <= warmup_steps < total_steps.
    """
    if total_steps < 1:
        raise InvalidValue(f"total_steps is {total_steps}, expected at least 1: set total_epochs or total_steps higher")
    if not 0 <= warmup_steps < total_steps:
        raise InvalidValue(
            f"warmup_steps is {warmup_steps}, expected 0 to {total_steps - 1} (total_steps is {total_steps}): "
            "shorten the warm-up (warmup_epochs, warmup_steps or warmup_percent) or train longer"
        )

    def value_at(step):
        xp = jnp if isinstance(step, jax.Array) else np
        step = xp.minimum(step, total_steps - 1)
        rising = start_warmup_value + (base_value - start_warmup_value) * (step / max(warmup_steps - 1, 1))
        progress = (step - warmup_steps) / (total_steps - warmup_steps)  # in [0, 1), never 1
        cosine = xp.cos(0.5 * math.pi * progress) ** 2  # (1 + cos(pi p)) / 2
        return xp.where(step < warmup_steps, rising, final_value + (base_value - final_value) * cosine)

    return value_at


def steps_with_warmup(
    base_value: float,
    milestones: Sequence[int],
    factor: float,
    warmup_steps: int = 0,
    start_warmup_value: float = 0.0,
) -> Callable[[Any], Any]:
    """Linear warm-up, then `base_value` multiplied by `factor` at each milestone (a step).

    The kind of schedule in SEVERE's own code (for Charades: x0.1 at epochs 41 and 49, after 4 epochs of warm-up).
    Unlike that of `cosine_with_warmup`, this warm-up reaches `base_value` at the first step after it.

    Returns:
      Function of the step, as of `cosine_with_warmup`.

    Raises:
      InvalidValue: the milestones do not ascend.
    """
    if list(milestones) != sorted(set(milestones)):
        raise InvalidValue(f"milestones {tuple(milestones)}: expected ascending numbers")

    def value_at(step):
        xp = jnp if isinstance(step, jax.Array) else np
        rising = start_warmup_value + (base_value - start_warmup_value) * (step / max(warmup_steps, 1))
        passed = xp.sum(step >= xp.asarray(milestones))
        return xp.where(step < warmup_steps, rising, base_value * factor**passed)

    return value_at


def scaled_lr(base_lr: float, global_batch: int) -> float:
    """The authors' linear scaling rule: `base_lr` is for 256 clips, `global_batch` is over all hosts and devices."""
    return base_lr * global_batch / 256
