"""The feature queue: what it changes and when it starts.

tests/train/test_step.py shows that devices do not matter to it, test_restarts.py that a run comes back with it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.objective import feature_queue
from sigma_jax.objective.sigma import symmetric_loss
from sigma_jax.ops.sinkhorn import hard_assignments, prototype_scalings
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.tasks.pretrain import SigmaSettings
from sigma_jax.train import setup
from sigma_jax.train.setup import plan_program
from tests.train.small import shrunk

K, E, N = 8, 16, 32
SETTINGS = {"epsilon": 0.05, "num_iters": 10, "queue_start": 0}
PROTOTYPES = np.linalg.qr(np.random.default_rng(0).standard_normal((E, E), np.float32))[0][:K]
loss_of = jax.jit(partial(symmetric_loss, **SETTINGS), static_argnames="queue_start")
push = jax.jit(feature_queue.push)


def features(seed, prototypes):
    """[N E] near the given prototypes, in turn."""
    return PROTOTYPES[np.resize(prototypes, N)] + 0.05 * np.random.default_rng(seed).standard_normal((N, E), np.float32)


def full_queue(past):
    queue = feature_queue.empty_queue(len(past), N, E)
    for batch in past:
        queue = push(queue, batch, batch)
    return queue


def test_a_batch_of_one_kind_is_not_torn_apart():
    """All tokens belong to prototype 0: balanced alone they must spread, balanced with the past they need not."""
    batch, past = features(1, [0]), [features(2 + i, [1, 2, 3, 4, 5, 6, 7]) for i in range(7)]
    _, alone = loss_of(batch, batch, PROTOTYPES)
    _, joined = loss_of(batch, batch, PROTOTYPES, queue=full_queue(past))
    assert alone["prototypes_used_proj"] == 1.0
    assert joined["prototypes_used_proj"] == 1 / K
    _, before = loss_of(batch, batch, PROTOTYPES, queue=full_queue(past), queue_start=8)
    assert before == alone  # it is not used yet


def test_tokens_are_assigned_as_in_one_large_batch():
    batch, past = features(1, [0, 1, 2]), features(2, [3, 4, 5, 6, 7])
    both = np.concatenate([batch, past])

    @jax.jit
    def assigned(scores):
        log_scalings, _ = prototype_scalings(scores, epsilon=0.05, num_iters=10)
        return hard_assignments(scores, log_scalings, 0.05)

    scores = both / np.linalg.norm(both, axis=1, keepdims=True) @ PROTOTYPES.T
    expected = np.bincount(np.asarray(assigned(scores))[:N], minlength=K)
    _, metrics = loss_of(batch, batch, PROTOTYPES, queue=full_queue([past]))
    share = expected[expected > 0] / N
    np.testing.assert_allclose(metrics["prototypes_used_proj"], np.mean(expected > 0))
    entropy = -np.sum(share * np.log(share)) / np.log(K)
    np.testing.assert_allclose(metrics["assignment_entropy_proj"], entropy, rtol=1e-5)


def test_the_queue_keeps_the_newest_batches_in_order():
    queue = feature_queue.empty_queue(2, 3, 1)
    for i in range(4):
        assert bool(feature_queue.is_active(queue, 0)) == (i >= 2)
        assert bool(feature_queue.is_active(queue, 3)) == (i >= 3)
        queue = push(queue, jnp.full((3, 1), i), jnp.full((3, 1), -i))
    assert queue["pred"][:, 0, 0].tolist() == [3, 2] and queue["proj"][:, 0, 0].tolist() == [-3, -2]


def test_the_plan_says_that_a_queue_is_on():
    queue = {"objective.queue_batches": "2", "objective.queue_start_batches": "2"}
    lines = plan_program(shrunk("configs/demo.py", **queue), num_records=48).plan.describe()
    assert any("feature queue is on" in line and "after 2 micro-batches" in line for line in lines)


def test_what_cannot_be_is_an_error():
    with pytest.raises(ValueError, match="queue_batches=-1"):
        SigmaSettings(queue_batches=-1)
    config = apply_overrides(load_config("configs/k400.py:size=tiny,target=pixel"), {"objective.queue_batches": "1"})
    with pytest.raises(ValueError, match="target 'pixel' has no Sinkhorn"):
        setup.build_task(config)
