"""Parity of the classifier: forward, losses, gradients, layer decay and weight decay groups (finetune_cls*.npz)."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.models.classifier import VideoClassifier
from sigma_jax.models.sizes import VideoSize
from sigma_jax.objective.classification import cross_entropy, soft_target_cross_entropy
from sigma_jax.ops.posembed import position_table
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD, TubeGrid
from sigma_jax.train.optimizer import decay_mask, layer_scales
from sigma_jax.weights.torch_weights import from_torch
from tests.parity import Row, compare
from tests.parity_pretrain import deviations


def rows(arrays: dict) -> list[Row]:
    config = json.loads(str(arrays["config_json"]))
    size = VideoSize(config["ed"], config["depth"], config["heads"], 0, 1)
    grid = TubeGrid(config["frames"], config["img"], (config.get("tubelet", 2), config["patch"], config["patch"]))
    model = VideoClassifier(grid, size, config["nc"])

    def group(prefix):
        return from_torch({k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}, "classifier")

    params = group("param:")
    video = np.moveaxis(arrays["video"], 1, -1) * np.float32(PIXEL_STD) + np.float32(PIXEL_MEAN)
    logits, inner = jax.jit(partial(model.apply, collect=True))({"params": params}, video)
    out = [compare(name, value, arrays[name], 2e-5) for name, value in inner.items()]
    out.append(compare("logits", logits, arrays["logits"], 2e-5))
    out.append(
        compare("pos_embed", position_table("sincos_1d", grid.shape, size.width)[None], arrays["pos_embed"], 1e-6)
    )
    labels = jnp.asarray(arrays["y"])
    out.append(compare("loss_ce", cross_entropy(logits, labels), arrays["loss_ce"], 2e-5))
    out.append(compare("loss_smooth0.1", cross_entropy(logits, labels, 0.1), arrays["loss_smooth0.1"], 2e-5))

    def soft_loss(params):
        return soft_target_cross_entropy(model.apply({"params": params}, video), jnp.asarray(arrays["soft_target"]))

    loss, grads = jax.jit(jax.value_and_grad(soft_loss))(params)
    out.append(compare("loss_soft", loss, arrays["loss_soft"], 2e-5))
    out.append(deviations("grad of loss_soft", grads, group("grad:"), 5e-6))
    return out + _groups(params, arrays, config)


def _groups(params, arrays, config) -> list[Row]:
    """Learning rate scale and weight decay of every parameter, by torch name."""
    shapes = {k[6:]: v.shape for k, v in arrays.items() if k.startswith("param:")}

    def recorded(prefix, what):
        pairs = zip(arrays[f"{prefix}group_names"].tolist(), arrays[f"{prefix}{what}"], strict=True)
        return from_torch({name: np.full(shapes[name], value) for name, value in pairs}, "classifier")

    decays = jax.tree.map(lambda p, d: np.full(p.shape, config["wd"] if d else 0.0), params, decay_mask(params))
    scales = jax.tree.map(lambda p, s: np.broadcast_to(s, p.shape), params, layer_scales(params, config["decay"]))
    ones = jax.tree.map(lambda p, s: np.broadcast_to(s, p.shape), params, layer_scales(params, 1.0))
    depth = config["depth"]
    values = [config["decay"] ** (depth + 1 - i) for i in range(depth + 2)]
    nodecay_wd = float(np.max(arrays["nodecay_group_weight_decay"]))
    nodecay = jax.tree.map(lambda p, d: np.full(p.shape, nodecay_wd if d else 0.0), params, decay_mask(params))
    return [
        deviations("group_lr_scale", scales, recorded("", "group_lr_scale"), 1e-6),
        deviations("group_weight_decay", decays, recorded("", "group_weight_decay"), 1e-6),
        deviations("nodecay_group_lr_scale", ones, recorded("nodecay_", "group_lr_scale"), 1e-6),
        deviations("nodecay_group_weight_decay", nodecay, recorded("nodecay_", "group_weight_decay"), 1e-6),
        compare("layer_values", values, arrays["layer_values"], 1e-6),
    ]
