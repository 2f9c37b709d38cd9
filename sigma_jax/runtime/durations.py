"""Durations that carry a unit: steps, epochs, or percent of a run."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from sigma_jax.runtime.errors import InvalidValue

UNITS = ("steps", "epochs", "percent")


class Duration(NamedTuple):
    """An amount of training, its unit (one of UNITS) and the name of its config field; 0 means "none" or "never"."""

    amount: float
    unit: str
    field: str

    def in_steps(self, steps_per_epoch: int, total_steps: int | None = None) -> int:
        """Steps it lasts, at least one where the amount is above zero; percent is of `total_steps`.

        Raises:
          InvalidValue: a percentage of a run whose length is not known.
        """
        if self.unit == "steps":
            return int(self.amount)
        if self.unit == "epochs":
            steps = self.amount * steps_per_epoch
        elif total_steps is None:
            raise InvalidValue(f"{self.field}: a percentage of the run needs its length; use epochs or steps")
        else:
            steps = self.amount / 100 * total_steps
        return max(1, round(steps)) if self.amount > 0 else 0


def read_duration(section: Mapping[str, Any], name: str) -> Duration:
    """The one field among `{name}_steps`, `{name}_epochs`, `{name}_percent` of a config that is set (not None).

    Raises:
      InvalidValue: no field or more than one is set, or the value is out of range.
    """
    given = {unit: section[f"{name}_{unit}"] for unit in UNITS if section.get(f"{name}_{unit}") is not None}
    if len(given) != 1:
        found = "none of them is set"
        if given:
            found = "got " + " and ".join(f"{name}_{unit}={value}" for unit, value in given.items())
        raise InvalidValue(f"{name}: set exactly one of {', '.join(f'{name}_{unit}' for unit in UNITS)}; {found}")
    ((unit, value),) = given.items()
    field = f"{name}_{unit}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InvalidValue(f"{field} is {value!r}, expected a number >= 0")
    if unit == "steps" and value != int(value):
        raise InvalidValue(f"{field} is {value}, expected a whole number of steps")
    if unit == "percent" and value > 100:
        raise InvalidValue(f"{field} is {value}, expected 0 to 100")
    return Duration(value, unit, field)
