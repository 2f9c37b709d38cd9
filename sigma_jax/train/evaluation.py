"""Measurements during and after training: what runs when."""

import dataclasses
from collections.abc import Callable, Iterable

from sigma_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """A measurement and when it is due. The loop writes its numbers to metrics.jsonl.

    every_steps: 0 means once, after the last step; otherwise also after the last step.
    run: (state, steps done) -> (name, number) pairs, such as ("val/top1", 71.1). All processes call it together.
    """

    name: str
    every_steps: int
    run: Callable[[TrainState, int], Iterable[tuple[str, float]]]

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether it runs when `step` updates are done."""
        return step == total_steps or (self.every_steps > 0 and step % self.every_steps == 0)
