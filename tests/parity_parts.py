"""Parity of the parts: Sinkhorn, schedules, masks, teachers, parameter tables."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.models.dino import DinoVit, tube_features
from sigma_jax.models.sizes import TeacherSize
from sigma_jax.ops.masking import mask_of, sample_mask
from sigma_jax.ops.sinkhorn import hard_assignments, prototype_scalings, soft_assignments
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD, TubeGrid
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.tasks.pretrain import PretrainTask
from sigma_jax.train.schedule import cosine_with_warmup
from sigma_jax.weights.torch_weights import from_torch
from tests.parity import Row, compare


def sinkhorn(arrays: dict) -> list[Row]:
    out = []
    for name, q in arrays.items():
        if ":q:" not in name and not name.endswith(":joint"):
            continue
        parts = name.removeprefix("dist2:").split(":")
        epsilon = next(float(p[3:]) for p in parts if p.startswith("eps"))
        num_iters = next(int(p[2:]) for p in parts if p.startswith("it"))
        scores = jnp.asarray(arrays[f"{parts[0]}:scores"])
        soft, hard = assignments(scores, epsilon, num_iters)
        out.append(compare(name, soft, q, 5e-5))
        out.append(compare(f"{name} argmax", hard, q.argmax(axis=1), 0))
    return out


@partial(jax.jit, static_argnums=(1, 2))
def assignments(scores: jax.Array, epsilon: float, num_iters: int) -> tuple[jax.Array, jax.Array]:
    """Soft [n K] and hard [n] assignments of scores [n K]."""
    scalings, _ = prototype_scalings(scores, epsilon=epsilon, num_iters=num_iters)
    return soft_assignments(scores, scalings, epsilon), hard_assignments(scores, scalings, epsilon)


def schedule(arrays: dict) -> list[Row]:
    out = []
    for key in [k for k in arrays if k.endswith(":args_json")]:
        case = key.split(":")[0]
        args = json.loads(str(arrays[key]))
        per_epoch = args["niter_per_ep"]
        warmup = args.get("warmup_steps", -1)
        warmup = args.get("warmup_epochs", 0) * per_epoch if warmup is None or warmup <= 0 else warmup
        total, start = args["epochs"] * per_epoch, args.get("start_warmup_value", 0.0)
        rate = cosine_with_warmup(args["base_value"], args["final_value"], total, warmup, start)
        out.append(compare(f"schedule {case}", rate(np.arange(total)), arrays[f"{case}:values"], 1e-9))
    return out


def masks(arrays: dict) -> list[Row]:
    out = []
    for i, ((t, h, w), ratio) in enumerate(zip(arrays["input_size"], arrays["mask_ratio"], strict=True)):
        grid = TubeGrid(int(t) * 2, (int(h) * 16, int(w) * 16), (2, 16, 16), float(ratio))
        counts = [grid.masked_per_step, grid.num_masked, grid.num_visible]
        theirs = [int(arrays[k][i]) for k in ("masked_per_frame", "masked_total", "visible_total")]
        out.append(compare(f"mask {i} counts", counts, theirs, 0))
        draw = jax.jit(lambda key, grid=grid: mask_of(sample_mask(key, 1, grid)[1], grid.num_tubes))
        ours = np.asarray(draw(jax.random.key(i)))[0].reshape(t, -1)
        sample = np.asarray(arrays[f"mask{i}"]).reshape(t, -1).astype(bool)
        out.append(compare(f"mask {i} hidden per step", ours.sum(axis=1), sample.sum(axis=1), 0))
        out.append(compare(f"mask {i} same in every step", ours, np.broadcast_to(ours[0], ours.shape), 0))
    return out


def teacher(arrays: dict) -> list[Row]:
    config = json.loads(str(arrays["config_json"]))
    params = from_torch({k[6:]: v for k, v in arrays.items() if k.startswith("param:")}, "teacher")
    registers = params.get("registers", np.zeros((0, 1))).shape[0]
    patches = (config["img"] // config["patch"]) ** 2
    side = int(round(patches**0.5))
    size = TeacherSize(
        config["ed"],
        config["depth"],
        config["heads"],
        config.get("patch", 14),
        registers,
        layer_scale="scale1" in params["blocks"],
        position_grid=(side, side),
        cls_position=params["positions"].shape[0] == patches + 1,
    )
    images = np.moveaxis(arrays["image"], 1, -1) * np.float32(PIXEL_STD) + np.float32(PIXEL_MEAN)
    ours = jax.jit(partial(DinoVit(size).apply, collect=True))({"params": params}, images)
    grid = (14, 14) if registers else (side, side)  # the authors resize DINOv2's map to 14x14
    rows = [
        compare("tokens_all", ours["tokens"], arrays["tokens_all"], 2e-5),
        compare("features", tube_features(ours["tokens"], size, grid), arrays["features"], 2e-5),
    ]
    parts = {"patch_embed": ours["embedded"], "block0": ours["blocks"][0], "before_norm": ours["blocks"][-1]}
    rows += [compare(name, value, arrays[name], 2e-5) for name, value in parts.items() if name in arrays]
    return rows


def param_tables(tables: dict, video_sizes: dict, teacher_sizes: dict) -> list[Row]:
    """Parameter counts of S/B/L/H x every target, names and shapes where recorded; shapes only, nothing allocated."""
    letters = {"small": "S", "base": "B", "large": "L", "huge": "H"}
    targets = {
        "mlp_256": ("mlp", None),
        "dino_s_384": ("dino", "dino_s16"),
        "dino_b_768": ("dino", "dino_b16"),
        "pixel_l2_1536": ("pixel", None),
    }
    out = []
    mesh = make_mesh(devices=jax.devices()[:1])
    for name, count in tables["pretrain_param_counts"].items():
        size, kind = name.split(":")
        target, teacher_name = targets[kind]
        task = PretrainTask(
            mesh=mesh,
            grid=TubeGrid(),
            size=video_sizes[letters[size]],
            target=target,
            teacher=teacher_sizes.get(teacher_name),
        )
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        ours = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
        out.append(Row(f"parameters {name}", abs(ours - count), 0))
        if name in tables["pretrain_tables"]:
            table = {k: np.broadcast_to(np.float32(0), v) for k, v in dict(tables["pretrain_tables"][name]).items()}
            theirs = jax.tree.map(lambda x: x.shape, from_torch(table, "pretrain"))
            out.append(Row(f"names and shapes {name}", theirs != jax.tree.map(lambda x: x.shape, shapes), 0))
    for name, timm_name in (("dino_s16", "timm_vit_small_patch16_224"), ("dino_b16", "timm_vit_base_patch16_224")):
        table = {
            k: np.broadcast_to(np.float32(0), v)
            for k, v in dict(tables["teacher_tables"][timm_name]).items()
            if not k.startswith("head.")  # timm's ImageNet classifier, which a teacher does not have
        }
        theirs = jax.tree.map(lambda x: x.shape, from_torch(table, "teacher"))
        model = DinoVit(teacher_sizes[name])
        ours = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
        out.append(Row(f"names and shapes {name}", theirs != jax.tree.map(lambda x: x.shape, ours), 0))
    return out
