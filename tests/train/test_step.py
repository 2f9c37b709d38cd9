"""The update: devices do not matter, bad steps are skipped, accumulation averages, every option does something."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sigma_jax.models.compute import Compute
from sigma_jax.runtime.random import stream
from sigma_jax.runtime.sharding import make_mesh, shard_batch, state_shardings, traced_on
from sigma_jax.tasks.pretrain import SigmaSettings
from sigma_jax.train.optimizer import adamw
from sigma_jax.train.state import initial_params, new_state
from sigma_jax.train.step import loss_and_gradient, train_step
from tests.train.collectives import check_nothing_grows_with_the_batch
from tests.train.small import small_task, small_video

CLIPS = 17  # of each device in a micro-batch


def run_steps(task, num_steps=2, accumulation=1, batch=8):
    """Losses and final parameters of a few jitted steps over the task's mesh, and the text of the compiled step."""
    optimizer = adamw(1e-3)

    def init():
        return new_state(initial_params(task, 0), optimizer, task.init_memory(batch // accumulation))

    shardings = state_shardings(task.mesh, jax.eval_shape(init))
    state = jax.jit(init, out_shardings=shardings)()
    frozen = jax.jit(task.init_frozen)(stream(0, "teacher"))
    step = traced_on(task.mesh, train_step(task, optimizer, seed=0, accumulation=accumulation))
    step = jax.jit(step, out_shardings=(shardings, None))
    losses, batches = [], [shard_batch(task.mesh, {"video": small_video(batch, i)}) for i in range(num_steps)]
    step = step.lower(state, frozen, batches[0]).compile()
    for rows in batches:
        state, metrics = step(state, frozen, rows)
        losses.append({name: float(value) for name, value in metrics.items()})
    return losses, jax.device_get(state.params), step.as_text()


@pytest.fixture(scope="module")
def one_and_eight(devices):
    """Steps of one device and of eight, with all there is: a teacher, a feature queue and two micro-batches."""
    sigma = SigmaSettings(num_prototypes=11, queue_batches=2, queue_start=2)
    meshes = make_mesh(devices=devices[:1]), make_mesh(data=4, fsdp=2)
    return [run_steps(small_task(mesh, "dino", sigma=sigma), 4, accumulation=2, batch=16 * CLIPS) for mesh in meshes]


def test_eight_devices_equal_one(one_and_eight):
    """The queue is empty, fills and joins. test_sharding compares SIGMA-MLP."""
    (one, one_params, _), (many, many_params, _) = one_and_eight
    for step, rtol in enumerate((1e-6, 1e-5, 2e-5, 2e-5)):  # Adam's first step magnifies rounding
        np.testing.assert_allclose(many[step]["loss"], one[step]["loss"], rtol=rtol)
    assert one[0].keys() == many[0].keys()
    for a, b in zip(jax.tree.leaves(one_params), jax.tree.leaves(many_params), strict=True):
        assert np.mean(np.abs(a - b) > 1e-5) < 0.01


def test_nothing_that_grows_with_the_batch_crosses_devices(one_and_eight):
    _, (_, params, text) = one_and_eight
    check_nothing_grows_with_the_batch(text, params, CLIPS, fsdp=2)


@pytest.mark.parametrize("target", ["pixel", "feature"])
def test_regression_learns_its_target(target):
    losses, *_ = run_steps(small_task(target=target), num_steps=8)
    assert losses[-1]["loss"] < losses[0]["loss"] and "loss_proj" not in losses[0]


def test_a_nonfinite_step_changes_nothing_and_is_counted():
    task, optimizer = small_task(target="pixel"), adamw(1e-3)
    state = jax.jit(lambda: new_state(initial_params(task, 0), optimizer, {}))()
    step = jax.jit(train_step(task, optimizer, seed=0))
    good = {"video": jnp.asarray(small_video(2) / 255.0, jnp.float32)}
    bad = {"video": good["video"].at[0, 0, 0, 0, 0].set(jnp.nan)}
    skipped, metrics = step(state, {}, bad)
    skipped, metrics = step(skipped, {}, bad)
    assert int(metrics["nonfinite_steps"]) == int(metrics["nonfinite_run"]) == 2
    for before, after in zip(jax.tree.leaves(state.params), jax.tree.leaves(skipped.params), strict=True):
        np.testing.assert_array_equal(before, after)
    assert int(skipped.step) == 2  # the next step draws another mask
    state, metrics = step(skipped, {}, good)
    assert int(metrics["nonfinite_steps"]) == 2 and int(metrics["nonfinite_run"]) == 0
    assert np.isfinite(metrics["loss"])


def test_skipped_steps_do_not_rewind_the_schedule():
    """The learning rate that is applied, the one that is logged and the schedule's count follow the step."""
    task = small_task(target="pixel")
    optimizer = adamw(lambda step: 1e-3 * (step + 1), weight_decay=0.0)
    state = jax.jit(lambda: new_state(initial_params(task, 0), optimizer, {}))()
    step = jax.jit(train_step(task, optimizer, seed=0, learning_rate=lambda step: 1e-3 * (step + 1)))
    good = {"video": jnp.asarray(small_video(2) / 255.0, jnp.float32)}
    bad = {"video": good["video"].at[0, 0, 0, 0, 0].set(jnp.nan)}
    skipped = step(step(state, {}, bad)[0], {}, bad)[0]
    moved, metrics = step(skipped, {}, good)
    assert float(metrics["lr"]) == pytest.approx(3e-3)
    after, before = jax.device_get((moved.params, state.params))
    largest = max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), after, before)))
    assert largest == pytest.approx(3e-3, rel=1e-3)  # Adam's first update is the learning rate itself
    counts = [s.count for s in jax.tree.leaves(moved.opt_state, is_leaf=is_schedule) if is_schedule(s)]
    assert [int(count) for count in counts] == [3] == [int(moved.step)]


def is_schedule(x) -> bool:
    return isinstance(x, optax.ScaleByScheduleState)


def test_another_accumulation_repeats_no_random_key():
    """A run that goes on with fewer micro-batches (4, then 2, then 1): no step draws what an earlier one drew."""
    masks: list[tuple[int, bytes]] = []

    class Recorder:
        def loss(self, params, frozen, batch, seed, step):
            drawn = jax.random.bits(stream(seed, "mask", step), (2,))
            jax.debug.callback(lambda bits: masks.append((accumulation, bits.tobytes())), drawn)
            return jnp.sum(params), {}

    for first, accumulation in ((0, 4), (4, 2), (8, 1)):
        for step in range(first, first + 4):
            when = (0, jnp.int32(step), accumulation)
            loss_and_gradient(Recorder(), jnp.ones(1), {}, {"video": jnp.zeros((4, 1))}, when, {})
        jax.effects_barrier()
    assert len(masks) == 4 * (1 + 2 + 4)
    assert len({bits for _, bits in masks}) == len(masks)
    without = [jax.random.bits(stream(0, "mask", step), (2,)).tobytes() for step in range(8, 12)]
    assert [bits for accumulation, bits in masks if accumulation == 1] == without


def test_all_micro_batches_are_traced_once():
    traces = []

    class Counter:
        def loss(self, params, frozen, batch, seed, step):
            traces.append(batch["video"].shape)
            return jnp.sum(params), {}

    def gradient(params):
        return loss_and_gradient(Counter(), params, {}, {"video": jnp.zeros((8, 1))}, (0, jnp.int32(0), 4), {})

    jax.eval_shape(gradient, jnp.ones(1))
    assert traces == [(2, 1)]


def test_masks_follow_seed_and_step():
    task = small_task(target="pixel")
    params, batch = initial_params(task, 0), {"video": jnp.asarray(small_video(2))}
    loss = jax.jit(lambda seed, step: task.loss(params, {}, batch, seed, step)[0], static_argnums=0)
    values = [float(loss(seed, step)) for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert values[0] == values[1] and len({values[0], values[2], values[3]}) == 3


def test_accumulated_reconstruction_gradient_equals_the_whole_batch(devices):
    """With given masks, so that micro-batches hide what the whole batch hides."""
    task = small_task(make_mesh(devices=devices[:2]), "pixel")
    params = initial_params(task, 0)
    rng = np.random.default_rng(0)
    order = rng.permuted(np.tile(np.arange(task.grid.num_tubes), (8, 1)), axis=1).astype(np.int32)
    visible = task.grid.num_visible
    batch = {
        "video": small_video(8),
        "visible_idx": np.sort(order[:, :visible], axis=1),
        "masked_idx": np.sort(order[:, visible:], axis=1),
    }
    batch = shard_batch(task.mesh, batch)
    grads = [
        jax.jit(lambda p, a=a: loss_and_gradient(task, p, {}, batch, (0, jnp.int32(0), a), {})[:2])(params)
        for a in (1, 4)
    ]
    np.testing.assert_allclose(grads[1][0][0], grads[0][0][0], rtol=1e-6)
    for one, four in zip(jax.tree.leaves(grads[0][1]), jax.tree.leaves(grads[1][1]), strict=True):
        np.testing.assert_allclose(four, one, atol=1e-6)


def loss_fn(task):
    """The loss of a batch of four clips as a function of parameters."""
    batch = {"video": jnp.asarray(small_video(4))}
    return lambda params: task.loss(task.constrain(params), {}, batch, 0, jnp.int32(0))[0]


@functools.cache
def loss_of(task) -> float:
    """At the first parameters of a small task."""
    return float(jax.jit(loss_fn(task))(initial_params(small_task(), 0)))


@functools.cache
def gradient_of(task):
    """At the first parameters of a small task."""
    return jax.jit(jax.grad(loss_fn(task)))(initial_params(small_task(), 0))


@pytest.mark.parametrize(
    "change",
    [
        {"normalize_targets": False},
        {"mask_kind": "random"},
        {"positions": "sincos_3d"},
        {"sigma": "soft"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_changes_the_loss(change):
    task = small_task()
    if "sigma" in change:
        change = {"sigma": dataclasses.replace(task.sigma, assignments="soft")}
    other = small_task(**change)
    assert abs(loss_of(task) - loss_of(other)) > 1e-5


@pytest.mark.parametrize("compute", [{"remat": "full"}, {"remat": "dots"}, {"unroll": 0}, {"unroll": 2}])
def test_how_blocks_are_run_does_not_matter(compute):
    plain, other = (gradient_of(task) for task in (small_task(), small_task(compute=Compute(**compute))))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-6)


def test_bfloat16_computes_in_16_bits_and_stays_close():
    half = jax.jit(loss_fn(small_task(target="pixel", compute=Compute(dtype=jnp.bfloat16))))
    pixel = initial_params(small_task(target="pixel"), 0)
    assert "bf16" in half.lower(pixel).as_text()
    whole = float(jax.jit(loss_fn(small_task(target="pixel")))(pixel))
    np.testing.assert_allclose(float(half(pixel)), whole, rtol=2e-2)
    assert float(half(pixel)) != whole
    assert np.isfinite(loss_of(small_task(compute=Compute(dtype=jnp.bfloat16))))
