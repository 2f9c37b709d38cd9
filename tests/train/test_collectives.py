"""What crosses devices in the compiled step: gradients, scalars and K-vectors. Nothing that grows with the batch."""

import re

import jax
import numpy as np

from sigma_jax.train.optimizer import adamw
from sigma_jax.train.sharding import make_mesh, shard_batch
from sigma_jax.train.state import new_state, stream
from sigma_jax.train.step import train_step
from tests.train.small import small_task, small_video

COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(.*")
SHAPE = re.compile(r"(?:f32|bf16|f16|s32|u32|u8|pred|s64|f64)\[([\d,]*)\]")


def exchanged(batch: int) -> list[tuple[str, int]]:
    """(kind, largest number of elements) of every collective in the step for a batch over eight devices."""
    task, optimizer = small_task(make_mesh()), adamw(1e-3)
    state = new_state(task.init(stream(0, "init")), optimizer, {})
    step = jax.jit(train_step(task, optimizer, seed=0))
    text = step.lower(state, {}, shard_batch(task.mesh, {"video": small_video(batch)})).compile().as_text()
    found = []
    for match in COLLECTIVE.finditer(text):
        sizes = [int(np.prod([int(n) for n in dims.split(",") if n])) for dims in SHAPE.findall(match[1])]
        found.append((match[2], max(sizes)))
    return found


def test_nothing_that_grows_with_the_batch_crosses_devices(devices):
    task = small_task()
    largest_parameter = max(leaf.size for leaf in jax.tree.leaves(task.init(stream(0, "init"))))
    small, large = exchanged(8), exchanged(24)
    assert small, "the compiled step holds no collective that this test can read"
    assert sorted(small) == sorted(large)
    assert {kind for kind, _ in small} == {"all-reduce"}
    assert max(size for _, size in small) <= largest_parameter
