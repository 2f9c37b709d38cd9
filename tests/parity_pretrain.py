"""Parity of pre-training: forward pass, losses, gradients, AdamW steps (files pretrain_*.npz)."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.models.prototypes import constrain, cosine_scores
from sigma_jax.models.sizes import TeacherSize, VideoSize
from sigma_jax.ops.masking import indices_of
from sigma_jax.ops.posembed import position_table
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD, TubeGrid
from sigma_jax.runtime.sharding import make_mesh, replicated
from sigma_jax.tasks.pretrain import PretrainTask, SigmaSettings
from sigma_jax.train.optimizer import adamw, decay_mask
from sigma_jax.train.state import new_state
from sigma_jax.train.step import loss_and_gradient, train_step
from sigma_jax.weights.torch_weights import from_torch
from tests.parity import Row, compare
from tests.parity_parts import assignments

ACTIVATION, SCORE, LOSS, GRADIENT, SOFT, PARAMETER = 2e-5, 5e-6, 2e-5, 5e-6, 5e-5, 1e-5


def task_of(config: dict) -> PretrainTask:
    """Our task with a file's sizes."""
    has_teacher = config["target"].startswith("dino")
    target = "dino" if has_teacher else config["target"]
    if config["loss"] == "L2" and has_teacher:
        target = "feature"
    tube_size = (config.get("tubelet", 2), config["patch"], config["patch"])
    sigma = SigmaSettings(
        config.get("K") or 3000,
        config.get("eps") or 0.05,
        config.get("iters") or 10,
        config.get("temperature") or 0.1,
    )
    return PretrainTask(
        mesh=make_mesh(devices=jax.devices()[:1]),
        grid=TubeGrid(config.get("num_frames", 16), config["img"], tube_size, config["mask_ratio"]),
        size=VideoSize(config["ed"], config["edepth"], config["eh"], config["dd"], config["dh"], config["ddepth"]),
        target=target,
        sigma=sigma,
        projection_widths=(*(config.get("head") or ()), config["out"]) if target == "mlp" else (),
        teacher=TeacherSize(config["out"], 1, 1) if has_teacher else None,
    )


def group(arrays: dict, prefix: str) -> dict:
    """Arrays named 'prefix:<torch name>', in our layout."""
    named = {k[len(prefix) + 1 :]: v for k, v in arrays.items() if k.startswith(f"{prefix}:")}
    return from_torch(named, "pretrain")


def deviations(name: str, ours, theirs, limit: float, where=None) -> Row:
    """The largest deviation over a tree, optionally only where a tree of masks is True."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs), f"{name}: other parameters"
    worst = 0.0
    masks = jax.tree.leaves(where) if where is not None else [True] * len(jax.tree.leaves(ours))
    for a, b, m in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), masks, strict=True):
        assert a.shape == b.shape, f"{name}: shape {a.shape} against {b.shape}"
        worst = max(worst, float(np.max(np.where(m, np.abs(np.asarray(a) - b), 0))))
    return Row(name, worst, limit)


def rows(arrays: dict) -> list[Row]:
    config = json.loads(str(arrays["config_json"]))
    task = task_of(config)
    params = group(arrays, "param")
    video = np.moveaxis(arrays["video"], 1, -1) * np.float32(PIXEL_STD) + np.float32(PIXEL_MEAN)
    visible_idx, masked_idx = indices_of(arrays["mask"])
    batch = {"video": video, "visible_idx": visible_idx, "masked_idx": masked_idx}
    if "feature" in arrays:
        feature = arrays["feature"]
        batch["teacher_features"] = feature.reshape(feature.shape[0], -1, feature.shape[-1])
    return [*_forward(task, params, batch, arrays), *_training(task, params, batch, arrays, config)]


def _forward(task, params, batch, arrays) -> list[Row]:
    out = []
    params = jax.jit(constrain)(params)
    variables = {"params": params}
    apply = jax.jit(task.model.apply, static_argnames="method")
    ours = apply(variables, batch["video"], batch["visible_idx"], batch["masked_idx"], method="collect")
    ours["labels"] = jax.jit(task.targets)({}, batch, batch["masked_idx"])
    out += [compare(name, value, arrays[name], ACTIVATION) for name, value in ours.items()]
    predictions = apply(variables, batch["video"], batch["visible_idx"], batch["masked_idx"])
    out.append(compare("x (hidden tubes only)", predictions, arrays["x"], ACTIVATION))
    encode = jax.jit(lambda video: task.model.bind(variables).encoder(video, collect=True)[1]["embedded"])
    embedded = jnp.asarray(encode(batch["video"]))
    out.append(compare("patch_embed", embedded, arrays["patch_embed"], ACTIVATION))
    for side, width in (("enc", task.size.width), ("dec", task.size.decoder_width)):
        table = position_table("sincos_1d", task.grid.shape, width)[None]
        out.append(compare(f"{side}_pos_embed", table, arrays[f"{side}_pos_embed"], 1e-6))
    if task.objective == "l2":
        return out

    projections = apply(variables, ours["labels"], method="project")
    out.append(compare("proj", projections, arrays["proj"], ACTIVATION))
    out.append(compare("prototypes_after", params["prototypes"], arrays["prototypes_after"], SCORE))
    for side, features in (("1", projections), ("2", predictions)):
        flat = features.reshape(-1, features.shape[-1])
        scores = jax.jit(cosine_scores)(flat, params["prototypes"])
        soft, hard = assignments(scores, task.sigma.epsilon, task.sigma.num_iters)
        shape = arrays[f"scores{side}"].shape
        out.append(compare(f"scores{side}", scores.reshape(shape), arrays[f"scores{side}"], SCORE))
        out.append(compare(f"q{side}", soft.reshape(shape), arrays[f"q{side}"], SOFT))
        target = arrays[f"target_from_q{side}_steps"][0]
        out.append(compare(f"target_from_q{side}", hard.reshape(target.shape), target, 0))
    return out


def _training(task, params, batch, arrays, config) -> list[Row]:
    """The three recorded updates and the fourth forward pass, through the real step."""
    optimizer = adamw(config["lr"], betas=tuple(config["betas"]), weight_decay=config["weight_decay"])
    whole = replicated(task.mesh)  # as the step's results, so that it is compiled once
    step = jax.jit(train_step(task, optimizer, seed=0), out_shardings=whole)
    gradient = jax.jit(lambda p: loss_and_gradient(task, task.constrain(p), {}, batch, (0, jnp.int32(0), 1), {})[:2])
    state = jax.jit(lambda params: new_state(params, optimizer, {}), out_shardings=whole)(params)
    grads = group(arrays, "grad")
    clear = jax.tree.map(lambda g: np.abs(g) >= 1e-6, grads)  # elsewhere rounding decides AdamW's first steps
    out = [deviations("grad", gradient(params)[1], grads, GRADIENT)]
    for i in range(4):
        state, metrics = step(state, {}, batch)
        names = {"loss": "losses", "loss_proj": "loss1_steps", "loss_pred": "loss2_steps", "grad_norm": "grad_norms"}
        for ours, theirs in names.items():
            if ours in metrics and theirs in arrays:
                out.append(compare(f"{theirs}[{i}]", metrics[ours], arrays[theirs][i], LOSS))
        if i in (0, 2):
            recorded = group(arrays, f"step{i + 1}")
            out.append(deviations(f"step{i + 1} where |grad| >= 1e-6", state.params, recorded, PARAMETER, clear))
            out.append(deviations(f"step{i + 1} everywhere", state.params, recorded, 2 * config["lr"] * (i + 1)))
    return out + _groups(params, arrays, config)


def _groups(params, arrays, config) -> list[Row]:
    """Which parameters decay, by torch name."""
    decays = jax.tree.map(
        lambda p, d: np.full(p.shape, config["weight_decay"] if d else 0.0), params, decay_mask(params)
    )
    recorded = dict(zip(arrays["group_names"].tolist(), arrays["group_weight_decay"], strict=True))
    shapes = {k[6:]: v.shape for k, v in arrays.items() if k.startswith("param:")}
    theirs = from_torch({name: np.full(shapes[name], value) for name, value in recorded.items()}, "pretrain")
    return [deviations("group_weight_decay", decays, theirs, 1e-7)]
