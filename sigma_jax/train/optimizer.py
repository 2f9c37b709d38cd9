"""AdamW with the authors' parameter groups.

Weight decay applies to matrices and prototypes only: not to biases, norm scales, layer scales, tokens or positional
embeddings (golden `group_weight_decay`, tests/goldens/README.md item 22). With layer decay, the learning rate of block
i is scaled by decay^(depth - i), that of the tube embedding by decay^(depth + 1), all others by 1 (golden
`finetune_cls`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sigma_jax.runtime.sharding import path_of
from sigma_jax.runtime.trees import Tree

DECAYED = ("kernel", "qkv", "prototypes")


def decay_mask(params: Tree) -> Tree:
    """Which parameters weight decay applies to: a tree of bools."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_of(path).rpartition("/")[2] in DECAYED, params)


def layer_scales(params: Tree, layer_decay: float) -> Tree:
    """Learning rate scales: a tree of arrays that broadcast against the parameters (stacked blocks: [L, 1, ...])."""
    depth = max(
        (leaf.shape[0] for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "blocks" in path_of(path)),
        default=0,
    )

    def scale(path, leaf):
        name = path_of(path)
        if "embed/" in name:
            return np.float32(layer_decay ** (depth + 1))
        if "blocks/" in name:
            per_block = layer_decay ** (depth - np.arange(depth))
            return per_block.reshape(-1, *(1,) * (leaf.ndim - 1)).astype(np.float32)
        return np.float32(1.0)

    return jax.tree_util.tree_map_with_path(scale, params)


def adamw(
    learning_rate: Callable[[jax.Array], jax.Array] | float,
    *,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.05,
    layer_decay: float = 1.0,
    clip_norm: float | None = None,
    trainable: Callable[[str], bool] = lambda path: True,
) -> optax.GradientTransformation:
    """AdamW (epsilon 1e-8) as torch computes it: weight decay is multiplied by the learning rate.

    Its `update` takes two extra arguments: `finite`, a bool scalar (where it is False, the moments keep their values),
    and `step`, at which the learning rate is taken; it also counts skipped steps.

    Args:
      learning_rate: a number, or a function of the step, counted from 0.
      betas: decay rates of the first and second moment.
      weight_decay: coefficient, for the parameters of `decay_mask`.
      layer_decay: factor of the learning rate from one block to the one before it (see `layer_scales`); 1 for none.
      clip_norm: largest global gradient norm; None for no clipping, as published.
      trainable: whether the parameter at a path is updated; frozen ones have no moments.
    """
    steps = [_scale_by_adam(*betas), optax.add_decayed_weights(weight_decay, decay_mask)]
    if clip_norm is not None:
        steps.insert(0, optax.clip_by_global_norm(clip_norm))
    if layer_decay != 1.0:
        steps.append(_scale_by_layer(layer_decay))
    steps.append(_scale_by_schedule(learning_rate) if callable(learning_rate) else optax.scale(-learning_rate))

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "trained" if trainable(path_of(path)) else "frozen", params
        )

    return optax.partition({"trained": optax.chain(*steps), "frozen": optax.set_to_zero()}, labels)


class AdamState(NamedTuple):
    """State of AdamW. count: updates made. mu, nu: first and second moments, fp32 trees like the parameters.

    `_scale_by_adam` itself keeps the old values in a non-finite step; train/step.py does so for other states.
    """

    count: jax.Array
    mu: Tree
    nu: Tree


def _scale_by_adam(beta1: float, beta2: float) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_adam, with moments that are updated in place and stay when `finite` is False.

    The barrier makes the update read the new moments. Without it XLA computes them a second time from the old ones,
    which then must be copied before they are overwritten: two copies of the model.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params=None, *, finite=True, **_):
        def moment(beta, order):
            def leaf(g, m):
                return jnp.where(finite, beta * m + (1 - beta) * g**order, m)

            return leaf

        mu = jax.tree.map(moment(beta1, 1), grads, state.mu)
        nu = jax.tree.map(moment(beta2, 2), grads, state.nu)
        mu, nu = jax.lax.optimization_barrier((mu, nu))
        count = optax.safe_increment(state.count)
        debias1, debias2 = 1 - beta1**count, 1 - beta2**count
        updates = jax.tree.map(lambda m, v: (m / debias1) / (jnp.sqrt(v / debias2) + 1e-8), mu, nu)
        return updates, AdamState(jnp.where(finite, count, state.count), mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def _scale_by_schedule(learning_rate: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_learning_rate at the given `step` (default: its own count); its count becomes `step` + 1."""

    def update(updates, state, params=None, *, step=None, **_):
        at = state.count if step is None else step
        rate = learning_rate(at)
        return jax.tree.map(lambda u: -rate * u, updates), optax.ScaleByScheduleState(optax.safe_increment(at))

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    return optax.GradientTransformationExtraArgs(init, update)


def _scale_by_layer(layer_decay: float) -> optax.GradientTransformation:
    def update(updates, state, params):
        scales = layer_scales(params, layer_decay)
        return jax.tree.map(lambda u, s: u * jnp.asarray(s, u.dtype), updates, scales), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class Averaged(NamedTuple):
    """Optimizer state with an exponential moving average of the parameters.

    inner: state of the optimizer. count: updates made. mean: the average, a tree like the parameters.
    """

    inner: Tree
    count: jax.Array
    mean: Tree


def with_average(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """Adds mean <- decay * mean + (1 - decay) * parameters to an optimizer; the first update copies the parameters."""

    def init(params):
        return Averaged(optimizer.init(params), jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    optimizer = optax.with_extra_args_support(optimizer)

    def update(grads, state, params, **extra):
        updates, inner = optimizer.update(grads, state.inner, params, **extra)
        kept = jnp.where(state.count == 0, 0.0, decay)
        new = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda m, p: kept * m + (1.0 - kept) * p, state.mean, new)
        return updates, Averaged(inner, state.count + 1, mean)

    return optax.GradientTransformationExtraArgs(init, update)


def evaluated_params(params: Tree, opt_state: Tree) -> Tree:
    """The averaged parameters, if the optimizer keeps them and has made an update; else the parameters."""
    if isinstance(opt_state, Averaged) and int(opt_state.count):
        return opt_state.mean
    return params
