"""Durations that carry a unit: steps, epochs, or percent of a run."""

import math
from collections.abc import Mapping
from typing import Any

from sigma_jax.runtime.errors import InvalidValue

UNITS = ("steps", "epochs", "percent")


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
        raise InvalidValue(f"{name}: set exactly one of {', '.join(f'{name}_{unit}' for unit in UNITS)}; {found}")
    ((field, value),) = given.items()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InvalidValue(f"{field} is {value!r}, expected a number >= 0")
    if field.endswith("_steps"):
        if value != int(value):
            raise InvalidValue(f"{field} is {value}, expected a whole number of steps")
        return int(value)
    if field.endswith("_epochs"):
        steps = value * steps_per_epoch
    else:
        if total_steps is None:
            raise InvalidValue(f"{field}: a percentage of the run needs its length; use {name}_epochs or {name}_steps")
        if value > 100:
            raise InvalidValue(f"{field} is {value}, expected 0 to 100")
        steps = value / 100 * total_steps
    return max(1, round(steps)) if value > 0 else 0
