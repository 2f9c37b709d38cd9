"""The protocol of evaluators, which take parameters and yield named numbers."""

from collections.abc import Iterable
from typing import Protocol

from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.trees import Params


class Evaluator(Protocol):
    """Measures a network, exactly under padding and on any mesh.

    The training loop, `--mode=eval` and the commands run the same object. They choose the parameters (those of training
    or averaged ones), when to measure, and what to do with the numbers.

    Attributes:
      name: for log lines.
      every: the interval during training; such an evaluator runs after the last step, too. None: it is a test, which
        runs after the last step and by `--mode=eval` only.
      best_by: the number by which a run keeps its best weights, or None.
    """

    name: str
    every: Duration | None
    best_by: str | None

    def run(self, params: Params, step: int) -> Iterable[tuple[str, float]]:
        """Yields (name, number) pairs, such as ("val/top1", 71.1); all processes call it together.

        Args:
          params: of the task's model.
          step: number of updates by which they were trained; 0 if it is not known.
        """
        ...
