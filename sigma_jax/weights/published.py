"""Published .pth files: what they wrap weights in, and how one tells SIGMA, VideoMAE, DINO and DINOv2 apart."""

import re
from typing import Any

import numpy as np

from sigma_jax.weights.inferred_sizes import infer_sizes
from sigma_jax.weights.torch_weights import WeightsMismatch, from_torch, to_torch
from sigma_jax.weights.weights_file import Weights

CONTAINERS = ("model", "module", "state_dict", "teacher", "model_state_dict")  # the first that is there
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
OPTIMIZER_KEYS = {"state", "param_groups"}
RENAMED = (  # DINOv2 as published (torch hub) -> timm's names, which from_torch knows
    (re.compile(r"^register_tokens$"), "reg_token"),
    (re.compile(r"^blocks\.\d+\.(\d+\.)"), r"blocks.\1"),  # blocks in chunks, as trained
)
NOT_USED = {  # of a teacher: name -> why it is left out
    "mask_token": "used in DINOv2's training only",
    "head.": "projection head or ImageNet classifier",
    "dino_head.": "projection head",
}


def state_dict_of(loaded: Any, path: str) -> dict[str, np.ndarray]:
    """The one dictionary of arrays in what a .pth holds, without wrappers' prefixes.

    Raises:
      WeightsMismatch: there is none; an optimizer's state alone is named as such.
    """
    keys = []
    while isinstance(loaded, dict) and not _holds_arrays(loaded):
        keys = [str(key) for key in loaded]
        inner = next((key for key in CONTAINERS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            if OPTIMIZER_KEYS & set(keys) or "optimizer" in keys:
                raise WeightsMismatch(
                    f"{path} holds the state of an optimizer and no weights (keys: {', '.join(keys)})"
                )
            break
        loaded = loaded[inner]
    if not isinstance(loaded, dict) or not _holds_arrays(loaded):
        what = f"keys: {', '.join(keys[:8])}" if keys else type(loaded).__name__
        raise WeightsMismatch(f"{path} holds no weights ({what}): expected a state dict, or one under {CONTAINERS[:3]}")
    arrays = {name: value for name, value in loaded.items() if isinstance(value, np.ndarray)}
    others = sorted(str(name) for name in loaded.keys() - arrays.keys())
    if others:
        raise WeightsMismatch(f"{path}: among its weights are entries that are no arrays: {', '.join(others[:8])}")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    backbone = {name: array for name, array in arrays.items() if name.startswith("backbone.")}
    if backbone and all(name in backbone or name.startswith(("head.", "dino_head.", "ibot_head.")) for name in arrays):
        return {name.removeprefix("backbone."): array for name, array in backbone.items()}
    return arrays


def _holds_arrays(value: dict) -> bool:
    return any(isinstance(inner, np.ndarray) for inner in value.values())


def kind_of(arrays: dict[str, np.ndarray], path: str) -> str:
    """'pretrain', 'classifier', 'encoder' or 'teacher' by names and the patch convolution's axes."""
    names = [name for name in arrays if name.endswith("patch_embed.proj.weight")]
    if len(names) != 1:
        first = ", ".join(sorted(arrays)[:6])
        raise WeightsMismatch(
            f"{path}: patch_embed.proj.weight is missing, so it is none of SIGMA, VideoMAE, DINO, DINOv2 (its names: "
            f"{first}, ...)"
        )
    axes = np.ndim(arrays[names[0]])
    if axes == 4:
        return "teacher"
    if axes != 5:
        raise WeightsMismatch(f"{path}: {names[0]} has {axes} axes, expected 5 (video) or 4 (image)")
    if any(name.startswith(("decoder.", "encoder_to_decoder.")) for name in arrays):
        return "pretrain"
    return "classifier" if any(name.startswith(("head.", "fc_norm.")) for name in arrays) else "encoder"


def weights_of(arrays: dict[str, np.ndarray], source: str, heads: dict[str, int | None]) -> Weights:
    """Arrays under the authors' names -> our weights.

    Args:
      heads: num_heads and decoder_num_heads, None for the rule.

    Raises:
      WeightsMismatch: names the file and every key that has no place.
    """
    kind, notes = kind_of(arrays, source), []
    if kind == "encoder":
        arrays = {name.removeprefix("encoder."): array for name, array in arrays.items()}
    if kind == "teacher":
        arrays, notes = _plain_teacher(arrays)
    if any(array.dtype != np.float32 for array in arrays.values()):
        types = ", ".join(sorted({array.dtype.name for array in arrays.values()}))
        notes.append(f"stored as {types}, read as float32")
    kernel = next(name for name in arrays if name.endswith("patch_embed.proj.weight"))
    patch = tuple(int(n) for n in arrays[kernel].shape[2:])
    try:
        params = from_torch(arrays, kind, np.float32)
        sizes = infer_sizes(kind, params, patch, **heads)
    except WeightsMismatch as error:
        raise WeightsMismatch(f"{source}: {error}") from error
    return Weights(kind, params, sizes, source, tuple(notes))


def _plain_teacher(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """timm's names, without what a frozen teacher does not use; what was left out is said."""
    kept, notes = {}, []
    for name, array in arrays.items():
        reason = next((why for start, why in NOT_USED.items() if name.startswith(start)), None)
        if reason:
            notes.append(f"{name} left out: {reason}")
            continue
        for pattern, replacement in RENAMED:
            name = pattern.sub(replacement, name)
        kept[name] = array
    return kept, notes


def patch_of(weights: Weights) -> tuple[int, ...]:
    """(pt, ph, pw) of a video model, (ph, pw) of a teacher."""
    if weights.kind == "teacher":
        return (weights.sizes["patch_size"],) * 2
    return tuple(weights.sizes["tube_size"])


def published_arrays(weights: Weights) -> dict[str, np.ndarray]:
    """Our weights under the names that the authors' scripts (teachers: timm) load.

    timm's register models add positions before cls and registers are put in front, so a cls row of the position table
    moves into the cls token: the sum is what both compute.

    Raises:
      WeightsMismatch: positions that the authors' code does not compute.
    """
    params = weights.params
    positions = weights.sizes.get("positions", "sincos_1d")
    if positions != "sincos_1d":
        raise WeightsMismatch(
            f"{weights.source} was trained with positions {positions!r}; the authors' code computes sincos_1d only, so "
            "there it would run and be wrong. Use .npz or --to=orbax"
        )
    if weights.kind == "teacher" and weights.sizes["cls_position"] and weights.sizes["num_registers"]:
        table = params["positions"]
        params = {**params, "cls": params["cls"] + table[:1], "positions": table[1:]}
    return to_torch(params, weights.kind, patch_of(weights))
