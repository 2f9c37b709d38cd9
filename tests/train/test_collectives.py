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
    """(kind, number of elements) of every array that the step exchanges for a batch over eight devices."""
    task, optimizer = small_task(make_mesh(-1, fsdp), target), adamw(1e-3)
    state, frozen = shapes_of(task, optimizer)
    shardings = state_shardings(task.mesh, state)
    step = traced_on(task.mesh, train_step(task, optimizer, seed=0))
    step = jax.jit(step, in_shardings=(shardings, replicated(task.mesh), None), out_shardings=(shardings, None))
    video = jax.ShapeDtypeStruct(small_video(batch).shape, "uint8", sharding=batch_sharding(task.mesh))
    text = step.lower(state, frozen, {"video": video}).compile().as_text()
    found = []
    for match in COLLECTIVE.finditer(text):
        sizes = (int(np.prod([int(n) for n in dims.split(",") if n])) for dims in SHAPE.findall(match[1]))
        found += [(match[2], size) for size in sizes]
    return found


@pytest.mark.parametrize("target,fsdp", [("mlp", 1), ("dino", 2), ("mlp", 8)])
def test_nothing_that_grows_with_the_batch_crosses_devices(target, fsdp, devices):
    """Every exchanged array is a parameter, of all blocks or one, a device's part, or no longer than q, k, v."""
    task = small_task(target=target)
    params = jax.tree.leaves(shapes_of(task, adamw(1e-3))[0].params)
    sizes = {leaf.size for leaf in params} | {leaf.size // leaf.shape[0] for leaf in params}
    sizes |= {size // fsdp for size in sizes}
    short, batch = 3 * task.size.width, 96  # the clips are more, so that one number per clip is seen
    found = exchanged(batch, target, fsdp)
    assert found, "the compiled step holds no collective that this test can read"
    assert {kind for kind, _ in found} == ({"all-reduce", "all-gather"} if fsdp > 1 else {"all-reduce"})
    others = {size for _, size in found if size not in sizes and size > short}
    assert not others, f"arrays of {sorted(others)} numbers are exchanged"
