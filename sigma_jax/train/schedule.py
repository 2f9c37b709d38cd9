"""Values that change with the step: learning rate and weight decay.

The curve is the one of the reference recipe (golden `schedule.npz`): a straight warm-up that includes its end point, so
the peak occurs twice (last warm-up step, first cosine step), then a cosine that never quite reaches the final value.
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
    """Schedule for use inside jit (fp32), and in float64 outside: `step` (int or array, 0-based) -> value(s).

    Steps beyond the last one keep the last value. Raises ValueError unless 0 <= warmup_steps < total_steps.
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
    """Schedule for use inside jit, and in float64 outside: warm-up, then `base_value` times `factor` per milestone.

    SEVERE's own schedules (of Charades: x0.1 at epochs 41 and 49 after 4 epochs of warm-up). Unlike the cosine's, this
    warm-up reaches the peak with the first step behind it. Raises ValueError where milestones do not ascend.
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
    """Linear scaling rule of the recipe: `base_lr` is for 256 clips; `global_batch` counts all hosts and devices."""
    return base_lr * global_batch / 256
