"""Published .pth files: the containers of their weights, and how SIGMA, VideoMAE, DINO and DINOv2 are recognised.

Files of related models with another architecture (`FOREIGN`) are refused with a message that names the model: some of
them have arrays of the same names and shapes, which would load and be wrong.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sigma_jax.weights.facts import RECORDED, complete, sizes_of
from sigma_jax.weights.pickles import Unknown
from sigma_jax.weights.pth import Tensor
from sigma_jax.weights.torch_weights import from_torch, to_torch
from sigma_jax.weights.weights_file import Weights, WeightsMismatch, from_json

CONTAINERS = {  # by --weights: keys under which files hold them; the first existing one is taken
    "model": ("model", "module", "state_dict", "teacher", "model_state_dict"),
    "ema": ("model_ema", "ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict"),
}
MAX_WRAPPERS = 8
FACTS = "sigma_jax"  # the key under which our own .pth files hold facts as JSON
# Arguments of the authors' scripts -> our facts.
ARGUMENTS = {"num_frames": "num_frames", "input_size": "image_size", "sampling_rate": "frame_stride"}
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
OPTIMIZER_KEYS = {"state", "param_groups"}
RENAMED = (  # DINOv2 as published (torch hub) -> timm's names, which from_torch knows
    (re.compile(r"^register_tokens$"), "reg_token"),
    (re.compile(r"^blocks\.\d+\.(\d+\.)"), r"blocks.\1"),  # blocks in chunks, as trained
)
NOT_USED = {  # arrays of a teacher that are left out, with the reason
    "mask_token": "used in DINOv2's training only",
    "head.": "projection head or ImageNet classifier",
    "classifier.": "ImageNet classifier",
    "dino_head.": "projection head",
}
V_JEPA = "V-JEPA (Bardes et al. 2024, Assran et al. 2025)"
FOREIGN = (  # (pattern of an array's name, the model that has it)
    (r"(^|\.)rope_embed\.|(^|\.)storage_tokens$|qkv\.bias_mask$", "DINOv3, with rotary positions"),
    (r"(^|\.)predictor_(embed|pos_embed|blocks)\b|^backbone\.predictor|^target_encoder\.", V_JEPA),
    (r"(^|\.)mlp\.w12\.", "a ViT-g of DINOv2, with SwiGLU instead of an MLP"),
    (r"(^|\.)mlp\.layers\.\d|patch_embed\.projection\.", "a checkpoint of mmaction2 or mmpretrain, with other names"),
    (r"(^|\.)dist_token$", "a distilled DeiT"),
    (r"(^|\.)temporal_(attn|embedding|fc)\b|(^|\.)time_embed$", "TimeSformer, with divided attention"),
)


def state_dict_of(loaded: Any, path: str, which: str = "model") -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """The state dict in the object of a .pth, with plain names, and what else the file says.

    Args:
      loaded: the object.
      path: of the file, for messages.
      which: 'model', or 'ema' for the moving average of the weights.

    Returns:
      (arrays by name, without prefixes of wrappers; notes; recorded facts).

    Raises:
      WeightsMismatch: there is no state dict; the message says whether it is an optimizer's state or a whole module.
    """
    recorded = _recorded(loaded)
    loaded, notes = _unwrapped(loaded, path, which)
    arrays = {str(name): value for name, value in loaded.items() if isinstance(value, (Tensor, np.ndarray))}
    tensors = [f"{name} ({value})" for name, value in loaded.items() if str(value).startswith("torch.")]
    if tensors:
        raise WeightsMismatch(f"{path}: among its weights are entries that are no arrays: {', '.join(tensors[:8])}")
    others = [str(name) for name in loaded if str(name) not in arrays]
    notes += [f"left out, since they are no arrays: {', '.join(others[:8])}"] * bool(others)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    backbone = {name: array for name, array in arrays.items() if name.startswith("backbone.")}
    if backbone and all(name in backbone or name.startswith(("head.", "dino_head.", "ibot_head.")) for name in arrays):
        arrays = {name.removeprefix("backbone."): array for name, array in backbone.items()}
    return arrays, notes, recorded


def _unwrapped(loaded: Any, path: str, which: str) -> tuple[dict, list[str]]:
    """The innermost dict under the keys of CONTAINERS, and notes on other weights in the file."""
    keys: list[str] = []
    notes: list[str] = []
    wanted = which
    for _ in range(MAX_WRAPPERS):
        if not isinstance(loaded, dict):
            break
        keys = [str(key) for key in loaded]
        if {"encoder", "target_encoder"} <= set(keys):
            raise foreign(path, V_JEPA)
        plain, averaged = _first(loaded, "model"), _first(loaded, "ema")
        if _holds_arrays(loaded) and not isinstance(loaded.get(plain or averaged), dict):
            break  # arrays beside a dict, such as the state of a random generator, are no weights
        if wanted == "ema" and averaged:
            inner, wanted = averaged, "model"
        elif plain:
            inner = plain
            notes += (
                [f"the file also holds averaged weights ({averaged}): --weights=ema takes them"] if averaged else []
            )
        elif averaged:
            inner = averaged
            notes.append(f"the file holds averaged weights only ({averaged}), as --weights=ema takes")
        else:
            break
        loaded = loaded[inner]
    shown = ", ".join(keys[:8])
    if wanted == "ema":
        raise WeightsMismatch(f"{path} holds no averaged weights, which --weights=ema asks for (keys: {shown})")
    if isinstance(loaded, dict) and _holds_arrays(loaded):
        return loaded, notes
    if OPTIMIZER_KEYS & set(keys) or "optimizer" in keys:
        raise WeightsMismatch(f"{path} holds the state of an optimizer and no weights (keys: {shown})")
    if isinstance(loaded, Unknown):
        raise WeightsMismatch(
            f"{path} holds {loaded}, an object that only its own program can build, and no state dict: in that program "
            "save torch.save(model.state_dict(), ...) and convert that"
        )
    expected = f"expected a state dict, or one under {CONTAINERS['model'][:3]}"
    kinds = sorted({str(value) for value in loaded.values() if isinstance(value, Unknown)}) if keys else []
    found = f"keys: {shown}" + f"; of types that are not read: {', '.join(kinds[:4])}" * bool(kinds)
    raise WeightsMismatch(f"{path} holds no weights ({found if keys else type(loaded).__name__}): {expected}")


def _first(loaded: dict, which: str) -> str | None:
    return next((key for key in CONTAINERS[which] if isinstance(loaded.get(key), (dict, Unknown))), None)


def _holds_arrays(value: dict) -> bool:
    return any(isinstance(inner, (Tensor, np.ndarray)) for inner in value.values())


def _recorded(loaded: Any) -> dict[str, Any]:
    """Facts in a file of ours, or in the arguments that the authors' scripts save."""
    if not isinstance(loaded, dict):
        return {}
    if isinstance(loaded.get(FACTS), str):
        facts = from_json(json.loads(loaded[FACTS]))
        return {name: facts[name] for name in RECORDED if name in facts}
    args = loaded.get("args")
    args = args if isinstance(args, dict) else {}
    return {ours: args[name] for name, ours in ARGUMENTS.items() if type(args.get(name)) is int}


def foreign(path: str, what: str, sign: str = "") -> WeightsMismatch:
    """The error for weights of a model that is not supported.

    Args:
      path: the file.
      what: name of the model.
      sign: by what it was recognised.
    """
    seen = f" (it has {sign})" if sign else ""
    return WeightsMismatch(f"{path} is {what}{seen}, which is not read here: expected SIGMA, VideoMAE, DINO or DINOv2")


def check_names(names: Iterable[str], path: str) -> None:
    """Raises WeightsMismatch if the name of an array belongs to another family of models."""
    names = list(names)
    for pattern, what in FOREIGN:
        name = next((name for name in names if re.search(pattern, name)), None)
        if name:
            raise foreign(path, what, name)


def kind_of(arrays: Mapping[str, Any], path: str) -> str:
    """The kind of weights, one of weights_file.KINDS, from their names and the axes of the patch convolution."""
    check_names(arrays, path)
    names = [name for name in arrays if name.endswith("patch_embed.proj.weight")]
    if len(names) != 1:
        first = ", ".join(sorted(arrays)[:6])
        raise WeightsMismatch(
            f"{path}: patch_embed.proj.weight is missing, so it is none of SIGMA, VideoMAE, DINO, DINOv2 (its names: "
            f"{first}, ...)"
        )
    shape = arrays[names[0]].shape
    if len(shape) == 4:
        return "teacher"
    if len(shape) != 5:
        raise WeightsMismatch(f"{path}: {names[0]} has {len(shape)} axes, expected 5 (video) or 4 (image)")
    if shape[0] == 1408:
        raise foreign(path, "a ViT-g of VideoMAE V2", "width 1408")
    if any(name.endswith("attn.qkv.bias") for name in arrays):
        raise foreign(path, f"a video transformer like {V_JEPA}", "a bias for keys")
    if any(name.startswith(("decoder.", "encoder_to_decoder.")) for name in arrays):
        return "pretrain"
    return "classifier" if any(name.startswith(("head.", "fc_norm.")) for name in arrays) else "encoder"


def weights_of(
    arrays: Mapping[str, Any],
    source: str,
    given: Mapping[str, int | None],
    recorded: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
) -> Weights:
    """Converts arrays with the authors' names to our weights.

    Args:
      arrays: by name.
      source: the file, for messages.
      given: num_heads and decoder_num_heads of the caller; None for those of the file, or width / 64.
      recorded: facts that the file records.
      notes: sentences about the weights so far.

    Raises:
      WeightsMismatch: names the file and every array that has no place in the model.
    """
    kind, notes, recorded = kind_of(arrays, source), list(notes), dict(recorded or {})
    if kind == "encoder":
        arrays = {name.removeprefix("encoder."): array for name, array in arrays.items()}
    if kind == "classifier" and "norm.weight" in arrays and "fc_norm.weight" not in arrays:
        # Without mean pooling the authors' head reads the first token after the final norm: the norm of that token.
        arrays = {re.sub(r"^norm\.", "fc_norm.", name): array for name, array in arrays.items()}
        recorded["pooling"] = "first"
    if kind == "teacher":
        arrays, unused = _plain_teacher(arrays)
        notes += unused
        recorded = {name: value for name, value in recorded.items() if name in ("num_heads", "position_grid")}
    for name, array in arrays.items():
        if len(array.shape) > 1 and np.dtype(array.dtype).kind in "iub":
            raise WeightsMismatch(
                f"{source}: {name} is of {np.dtype(array.dtype)}: quantised weights are not read. Save the model in "
                "float16 or float32"
            )
    if any(array.dtype != np.float32 for array in arrays.values()):
        types = ", ".join(sorted({np.dtype(array.dtype).name for array in arrays.values()}))
        notes.append(f"stored as {types}, read as float32")
    kernel = next(name for name in arrays if name.endswith("patch_embed.proj.weight"))
    patch = tuple(int(n) for n in arrays[kernel].shape[2:])
    try:
        params = from_torch(arrays, kind, np.float32)
        sizes, assumed = complete(sizes_of(kind, params, patch), recorded, given, source)
    except WeightsMismatch as error:
        text = str(error)
        raise WeightsMismatch(text if text.startswith(source) else f"{source}: {text}") from error
    return Weights(kind, params, sizes, source, tuple(notes), assumed)


def _plain_teacher(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Renames a teacher's arrays to timm's names, without those that a frozen teacher does not use; and notes."""
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
    """Our weights as arrays with the names of the authors' scripts (of timm, for teachers).

    timm's models with registers add positions before cls and registers are put in front, so a row for cls in the
    positional embedding is added to the cls token: the sum is the same.

    Raises:
      WeightsMismatch: a kind of positional embedding that the authors' code does not have.
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
    arrays = to_torch(params, weights.kind, patch_of(weights))
    if weights.sizes.get("pooling") == "first":
        arrays = {re.sub(r"^fc_norm\.", "norm.", name): array for name, array in arrays.items()}
    return arrays


def recorded_facts(weights: Weights) -> dict[str, str]:
    """The entry of our own .pth files with the facts that do not follow from arrays."""
    facts = {name: weights.sizes[name] for name in RECORDED if name in weights.sizes and name not in weights.assumed}
    return {FACTS: json.dumps(facts)}
