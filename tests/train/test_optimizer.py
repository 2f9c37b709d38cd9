"""AdamW's groups and schedule of a stacked parameter tree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sigma_jax.runtime.random import stream
from sigma_jax.runtime.sharding import path_of
from sigma_jax.train.optimizer import adamw, decay_mask, layer_scales, with_average
from sigma_jax.train.state import new_state
from sigma_jax.train.step import train_step
from tests.train.small import small_task


def paths(tree):
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_only_matrices_and_prototypes_decay():
    task = small_task()
    decays = paths(decay_mask(jax.eval_shape(task.init, jax.random.key(0))))
    assert decays["prototypes"] and decays["encoder/blocks/attn/qkv"] and decays["encoder/embed/kernel"]
    for name in ("decoder/mask_token", "encoder/blocks/attn/q_bias", "encoder/norm/scale", "decoder/head/bias"):
        assert not decays[name]


def test_layer_decay_of_twelve_blocks():
    params = {"encoder": {"embed": {"kernel": jnp.ones((2, 3))}, "blocks": {"w": {"kernel": jnp.ones((12, 2, 2))}}}}
    scales = paths(layer_scales({**params, "head": {"kernel": jnp.ones((3, 2))}}, 0.75))
    np.testing.assert_allclose(scales["encoder/embed/kernel"], 0.75**13)
    np.testing.assert_allclose(scales["encoder/blocks/w/kernel"].ravel(), 0.75 ** np.arange(12, 0, -1), rtol=1e-6)
    assert scales["head/kernel"] == 1


def test_frozen_parameters_stay_bit_equal_and_hold_no_moments():
    params = {"encoder": {"kernel": jnp.ones((3, 5))}, "head": {"kernel": jnp.ones((5, 2))}}
    optimizer = adamw(0.1, trainable=lambda path: path.startswith("head"))
    state = optimizer.init(params)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert not np.any(updates["encoder"]["kernel"]) and np.all(updates["head"]["kernel"])
    assert not any(leaf.shape == (3, 5) for leaf in jax.tree.leaves(state))


def test_clipping_limits_the_first_moment():
    params = {"head": {"kernel": jnp.zeros((4, 1))}}
    grads = {"head": {"kernel": jnp.full((4, 1), 50.0)}}
    moments = {}
    for clip in (None, 1.0):
        optimizer = adamw(0.1, clip_norm=clip)
        _, state = optimizer.update(grads, optimizer.init(params), params)
        moments[clip] = max(float(jnp.max(leaf)) for leaf in jax.tree.leaves(state) if leaf.shape == (4, 1))
    assert moments[1.0] < moments[None] / 10


def test_streams_are_named_and_stepped():
    draws = {
        (name, step): float(jax.random.uniform(stream(0, name, step))) for name in ("mask", "init") for step in (0, 1)
    }
    assert len(set(draws.values())) == 4
    assert float(jax.random.uniform(stream(0, "mask", jnp.int32(1)))) == draws["mask", 1]


def test_updates_equal_optax_and_stay_where_not_finite():
    params = {"a": {"kernel": jnp.asarray([[1.0, -2.0]])}}
    ours, theirs = adamw(0.1, betas=(0.9, 0.95)), optax.adamw(0.1, b1=0.9, b2=0.95, weight_decay=0.05)
    state, their_state = ours.init(params), theirs.init(params)
    for scale in (1.0, 3.0):
        grads = jax.tree.map(lambda p, scale=scale: scale * p**2, params)
        updates, state = ours.update(grads, state, params, finite=jnp.bool_(True))
        expected, their_state = theirs.update(grads, their_state, params)
        np.testing.assert_allclose(updates["a"]["kernel"], expected["a"]["kernel"], rtol=1e-6)
    grads = jax.tree.map(lambda p: p * jnp.nan, params)
    _, kept = ours.update(grads, state, params, finite=jnp.bool_(False))
    before, after = ([x for x in jax.tree.leaves(tree) if x.ndim] for tree in (state, kept))
    jax.tree.map(np.testing.assert_array_equal, before, after)


class Quadratic:
    """A task of one matrix."""

    def constrain(self, params):
        return params

    def loss(self, params, frozen, batch, seed, step):
        return jnp.sum((params["a"]["kernel"] - batch["value"]) ** 2), {}


@pytest.mark.parametrize(
    "optimizer", [adamw(0.1), optax.adam(0.1), with_average(adamw(0.1), 0.9)], ids=["adamw", "optax", "averaged"]
)
def test_a_nonfinite_step_keeps_every_optimizers_state(optimizer):
    state = new_state({"a": {"kernel": jnp.ones((2, 2))}}, optimizer, {})
    step = jax.jit(train_step(Quadratic(), optimizer, seed=0))
    good, _ = step(state, {}, {"value": jnp.zeros((2, 2))})
    bad, metrics = step(good, {}, {"value": jnp.full((2, 2), jnp.nan)})
    assert int(metrics["nonfinite_steps"]) == 1 and float(good.params["a"]["kernel"][0, 0]) < 1
    kept = (good.params, good.opt_state), (bad.params, bad.opt_state)
    jax.tree.map(np.testing.assert_array_equal, *kept)
