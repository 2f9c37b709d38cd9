"""Values that change with the step (learning rate, weight decay) and durations that carry a unit.

The curve is the one of the reference recipe (golden `schedule.npz`): a straight warm-up that includes its end point, so
the peak occurs twice (last warm-up step, first cosine step), then a cosine that never quite reaches the final value.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

UNITS = ("steps", "epochs", "percent")


def cosine_with_warmup(
    base_value: float,
    final_value: float,
    total_steps: int,
    warmup_steps: int = 0,
    start_warmup_value: float = 0.0,
) -> Callable[[Any], Any]:
    """Schedule for use inside jit: `step` (int scalar or array, 0-based) -> fp32 value(s).

    Steps beyond the last one keep the last value. Raises ValueError unless 0 <= warmup_steps < total_steps.
    """
    _check_lengths(total_steps, warmup_steps)

    def value_at(step):
        return _curve(jnp, jnp.asarray(step), base_value, final_value, (total_steps, warmup_steps), start_warmup_value)

    return value_at


def schedule_values(
    base_value: float,
    final_value: float,
    total_steps: int,
    warmup_steps: int = 0,
    start_warmup_value: float = 0.0,
) -> np.ndarray:
    """The same schedule as a table: float64 [total_steps], equal to the golden to 1e-9."""
    _check_lengths(total_steps, warmup_steps)
    steps = np.arange(total_steps)
    return _curve(np, steps, base_value, final_value, (total_steps, warmup_steps), start_warmup_value)


def _curve(xp, step, base_value, final_value, lengths, start_value):
    """The one formula behind both; `xp` is numpy (exact table) or jax.numpy (inside jit)."""
    total_steps, warmup_steps = lengths
    step = xp.minimum(step, total_steps - 1)
    rising = start_value + (base_value - start_value) * (step / max(warmup_steps - 1, 1))
    progress = (step - warmup_steps) / (total_steps - warmup_steps)  # in [0, 1), never 1
    falling = final_value + (base_value - final_value) * xp.cos(0.5 * math.pi * progress) ** 2  # (1 + cos(pi p)) / 2
    return xp.where(step < warmup_steps, rising, falling)


def _check_lengths(total_steps: int, warmup_steps: int) -> None:
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}, expected at least 1: set total_epochs or total_steps higher")
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps}, expected 0 to {total_steps - 1} (total_steps is {total_steps}): "
            "shorten the warm-up (warmup_epochs, warmup_steps or warmup_percent) or train longer"
        )


def resolve_duration(
    config: Mapping[str, Any], name: str, *, steps_per_epoch: int, total_steps: int | None = None
) -> int:
    """Steps meant by the one field among `{name}_steps`, `{name}_epochs`, `{name}_percent` that is set (not None).

    Epochs may be fractional; percent is of `total_steps` (in [0, 100]). Anything above zero lasts at least one step;
    0 means "none" or "never". Raises ValueError when no field or more than one is set, or the value is out of range.
    """
    given = {f"{name}_{unit}": config[f"{name}_{unit}"] for unit in UNITS if config.get(f"{name}_{unit}") is not None}
    if len(given) != 1:
        found = "none of them is set" if not given else "got " + " and ".join(f"{k}={v}" for k, v in given.items())
        raise ValueError(f"{name}: set exactly one of {', '.join(f'{name}_{unit}' for unit in UNITS)}; {found}")
    ((field, value),) = given.items()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{field} is {value!r}, expected a number >= 0")
    if field.endswith("_steps"):
        if value != int(value):
            raise ValueError(f"{field} is {value}, expected a whole number of steps")
        return int(value)
    if field.endswith("_epochs"):
        steps = value * steps_per_epoch
    else:
        if total_steps is None:
            raise ValueError(f"{field}: a percentage of the run needs its length; use {name}_epochs or {name}_steps")
        if value > 100:
            raise ValueError(f"{field} is {value}, expected 0 to 100")
        steps = value / 100 * total_steps
    return max(1, round(steps)) if value > 0 else 0


def scaled_lr(base_lr: float, global_batch: int) -> float:
    """Linear scaling rule of the recipe: `base_lr` is for 256 clips; `global_batch` counts all hosts and devices."""
    return base_lr * global_batch / 256
