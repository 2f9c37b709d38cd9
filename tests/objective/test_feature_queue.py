"""The feature queue: what it changes, when it starts, and that devices do not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.objective import feature_queue
from sigma_jax.objective.sigma import symmetric_loss
from sigma_jax.ops.sinkhorn import hard_assignments, prototype_scalings
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.tasks.pretrain import SigmaSettings
from sigma_jax.train import loop, setup
from tests.train.small import shrunk, small_task, with_program
from tests.train.test_step import run_steps

K, E, N = 8, 16, 32
SETTINGS = {"epsilon": 0.05, "num_iters": 10, "queue_start": 0}
PROTOTYPES = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (E, E)))[0][:K]


def features(seed, prototypes):
    """[N E] near the given prototypes, in turn."""
    noise = jax.random.normal(jax.random.key(seed), (N, E))
    return PROTOTYPES[jnp.resize(jnp.asarray(prototypes), N)] + 0.05 * noise


def full_queue(past):
    queue = feature_queue.empty_queue(len(past), N, E)
    for batch in past:
        queue = feature_queue.push(queue, batch, batch)
    return queue


def test_a_batch_of_one_kind_is_not_torn_apart():
    """All tokens belong to prototype 0: balanced alone they must spread, balanced with the past they need not."""
    batch, past = features(1, [0]), [features(2 + i, [1, 2, 3, 4, 5, 6, 7]) for i in range(7)]
    _, alone = symmetric_loss(batch, batch, PROTOTYPES, **SETTINGS)
    _, joined = symmetric_loss(batch, batch, PROTOTYPES, queue=full_queue(past), **SETTINGS)
    assert alone["prototypes_used_proj"] == 1.0
    assert joined["prototypes_used_proj"] == 1 / K
    _, before = symmetric_loss(batch, batch, PROTOTYPES, queue=full_queue(past), **SETTINGS | {"queue_start": 8})
    assert before == alone  # it is not used yet


def test_tokens_are_assigned_as_in_one_large_batch():
    batch, past = features(1, [0, 1, 2]), features(2, [3, 4, 5, 6, 7])
    scores = jnp.concatenate([batch, past]) / jnp.linalg.norm(jnp.concatenate([batch, past]), axis=1, keepdims=True)
    scores = scores @ PROTOTYPES.T
    log_scalings, _ = prototype_scalings(scores, epsilon=0.05, num_iters=10)
    expected = np.bincount(hard_assignments(scores, log_scalings, 0.05)[:N], minlength=K)
    _, metrics = symmetric_loss(batch, batch, PROTOTYPES, queue=full_queue([past]), **SETTINGS)
    share = expected[expected > 0] / N
    np.testing.assert_allclose(metrics["prototypes_used_proj"], np.mean(expected > 0))
    entropy = -np.sum(share * np.log(share)) / np.log(K)
    np.testing.assert_allclose(metrics["assignment_entropy_proj"], entropy, rtol=1e-5)


def test_the_queue_keeps_the_newest_batches_in_order():
    queue = feature_queue.empty_queue(2, 3, 1)
    for i in range(4):
        assert bool(feature_queue.is_active(queue, 0)) == (i >= 2)
        assert bool(feature_queue.is_active(queue, 3)) == (i >= 3)
        queue = feature_queue.push(queue, jnp.full((3, 1), i), jnp.full((3, 1), -i))
    assert queue["pred"][:, 0, 0].tolist() == [3, 2] and queue["proj"][:, 0, 0].tolist() == [-3, -2]


def test_eight_devices_equal_one_with_a_queue(devices):
    settings = SigmaSettings(num_prototypes=16, queue_batches=2, queue_start=2)
    runs = [
        run_steps(small_task(mesh, sigma=settings), num_steps=4, accumulation=2, batch=16)[0]
        for mesh in (make_mesh(devices=devices[:1]), make_mesh(data=4, fsdp=2))
    ]
    for step in range(4):  # the queue is empty, fills, joins; Adam magnifies rounding
        np.testing.assert_allclose(runs[1][step]["loss"], runs[0][step]["loss"], rtol=1e-6 if step == 0 else 2e-5)


def test_a_run_remembers_its_queue(tmp_path, shapes_dir):
    """Stopped and resumed, the loss goes on as if nothing had happened; the plan warns."""
    queue = {"objective.queue_batches": "2", "objective.queue_start_batches": "2"}

    def run(name):
        config = shrunk("configs/demo.py", **queue, **{"total_steps": "6", "evals.knn.every_steps": "0"})
        return setup.build(config, tmp_path / name, str(shapes_dir))

    straight = run("straight")
    assert any("feature queue is on" in line and "after 2 micro-batches" in line for line in straight.plan.describe())
    expected = loop.train(straight)
    loop.train(with_program(run("resumed"), straight.program, total_steps=3))
    state = loop.train(with_program(run("resumed"), straight.program))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(state.memory["seen"]) == 6


def test_what_cannot_be_is_an_error():
    with pytest.raises(ValueError, match="queue_batches=-1"):
        SigmaSettings(queue_batches=-1)
    config = apply_overrides(load_config("configs/k400.py:size=tiny,target=pixel"), {"objective.queue_batches": "1"})
    with pytest.raises(ValueError, match="target 'pixel' has no Sinkhorn"):
        setup.build_task(config)
