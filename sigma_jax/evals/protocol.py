"""What an evaluator is: parameters in, named numbers out."""

from collections.abc import Iterable
from typing import Protocol

from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.trees import Params


class Evaluator(Protocol):
    """Measures a network; exact under padding and on any mesh.

    The caller chooses the parameters (of training or averaged), when to measure, and what becomes of the numbers: the
    training loop, `--mode=eval` and the commands run the same object.
    """

    name: str  # for log lines
    every: Duration | None  # while training, and after the last step; None: a test, only after it and by --mode=eval
    best_by: str | None  # the number by which a training run keeps its best weights, None for none

    def run(self, params: Params, step: int) -> Iterable[tuple[str, float]]:
        """Yields (name, number) pairs, such as ("val/top1", 71.1); all processes call it together.

        Args:
          params: of the task's model.
          step: updates that made them; 0 where that is not known.
        """
        ...
