"""What crosses devices in the compiled step: gradients, scalars and K-vectors. Nothing that grows with the batch."""

import re

import jax
import numpy as np
import pytest

from sigma_jax.runtime.sharding import batch_sharding, make_mesh, replicated, state_shardings, traced_on
from sigma_jax.train.optimizer import adamw
from sigma_jax.train.state import initial_params, new_state
from sigma_jax.train.step import train_step
from tests.train.small import small_task, small_video

COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(.*")
SHAPE = re.compile(r"(?:f32|bf16|f16|s32|u32|u8|pred|s64|f64)\[([\d,]*)\]")


def shapes_of(task, optimizer):
    """Shapes of the first state and of the teacher, if the task has one."""
    state = jax.eval_shape(lambda: new_state(initial_params(task, 0), optimizer, {}))
    return state, jax.eval_shape(task.init_frozen, jax.random.key(0))


def exchanged(batch: int, target: str, fsdp: int) -> list[tuple[str, int]]:
    """(kind, largest number of elements) of every collective in the step for a batch over eight devices."""
    task, optimizer = small_task(make_mesh(-1, fsdp), target), adamw(1e-3)
    state, frozen = shapes_of(task, optimizer)
    shardings = state_shardings(task.mesh, state)
    step = traced_on(task.mesh, train_step(task, optimizer, seed=0))
    step = jax.jit(step, in_shardings=(shardings, replicated(task.mesh), None), out_shardings=(shardings, None))
    video = jax.ShapeDtypeStruct(small_video(batch).shape, "uint8", sharding=batch_sharding(task.mesh))
    text = step.lower(state, frozen, {"video": video}).compile().as_text()
    found = []
    for match in COLLECTIVE.finditer(text):
        sizes = [int(np.prod([int(n) for n in dims.split(",") if n])) for dims in SHAPE.findall(match[1])]
        found.append((match[2], max(sizes)))
    return found


@pytest.mark.parametrize("target,fsdp", [("mlp", 1), ("dino", 2), ("mlp", 8)])
def test_nothing_that_grows_with_the_batch_crosses_devices(target, fsdp, devices):
    state, _ = shapes_of(small_task(target=target), adamw(1e-3))
    largest_parameter = max(leaf.size for leaf in jax.tree.leaves(state.params))
    small, large = exchanged(8, target, fsdp), exchanged(24, target, fsdp)
    assert small, "the compiled step holds no collective that this test can read"
    assert sorted(small) == sorted(large)
    assert {kind for kind, _ in small} == ({"all-reduce", "all-gather"} if fsdp > 1 else {"all-reduce"})
    assert max(size for _, size in small) <= largest_parameter
