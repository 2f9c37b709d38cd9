"""Hugging Face folders (config.json + safetensors) of VideoMAE, DINOv2 and DINOv2 with registers.

Names are mapped to and from the authors' names (torch_weights). Hugging Face splits qkv into query, key and value and
has no bias for a VideoMAE key. Files carry `q_bias`/`v_bias` (what transformers writes) or `query.bias`/`value.bias`
(what version 5 calls them in memory); both are read, the former is written, which every version loads.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sigma_jax.weights.huggingface_names import DINOV2, VIDEOMAE, from_authors, to_authors
from sigma_jax.weights.inferred_sizes import agreed
from sigma_jax.weights.published import published_arrays, weights_of
from sigma_jax.weights.safetensors_file import read_file, write_file
from sigma_jax.weights.torch_weights import WeightsMismatch
from sigma_jax.weights.weights_file import UnreadableWeights, Weights

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MODELS = {"videomae": VIDEOMAE, "dinov2": DINOV2, "dinov2_with_registers": DINOV2}
LAYER_NORM_EPSILON = 1e-6


def read_folder(path: str | Path, given: dict[str, int | None]) -> Weights:
    """Weights from a folder, or from one .safetensors file beside its config.json.

    Args:
      given: num_heads and decoder_num_heads, None for what the config says.

    Raises:
      UnreadableWeights, WeightsMismatch: each names the file, and the key where there is one.
    """
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    if not (folder / CONFIG).is_file():
        raise UnreadableWeights(f"{path} has no {CONFIG} beside it: the heads and the model's kind stand there")
    config = _read_json(folder / CONFIG)
    model_type = config.get("model_type")
    if model_type not in MODELS:
        raise UnreadableWeights(f"{folder / CONFIG}: model_type {model_type!r}, expected one of {', '.join(MODELS)}")
    notes = check_config(config, str(folder / CONFIG))
    arrays = read_safetensors(path if path.is_file() else folder)
    try:
        arrays = to_authors(arrays, MODELS[model_type])
    except WeightsMismatch as error:
        raise WeightsMismatch(f"{path}: {error}") from error
    said = {"num_heads": config["num_attention_heads"], "decoder_num_heads": config.get("decoder_num_attention_heads")}
    weights = weights_of(arrays, str(path), agreed(said, given, str(path)))
    sizes = dict(weights.sizes)
    if model_type == "videomae":
        sizes |= {"num_frames": config["num_frames"], "image_size": config["image_size"]}
    return Weights(weights.kind, weights.params, sizes, str(path), (*weights.notes, *notes))


def check_config(config: dict[str, Any], path: str) -> list[str]:
    """Refuses what our model does not compute; returns what differs in the last digits."""
    expected = {"hidden_act": ("gelu",), "use_swiglu_ffn": (False,), "qkv_bias": (True,), "qv_bias": (True,)}
    for name, allowed in expected.items():
        if name in config and config[name] not in allowed:
            raise UnreadableWeights(f"{path}: {name}={config[name]!r} is not supported, only {allowed[0]!r}")
    epsilon = config.get("layer_norm_eps", LAYER_NORM_EPSILON)
    if epsilon == LAYER_NORM_EPSILON:
        return []
    return [f"layer_norm_eps is {epsilon} in {CONFIG} and {LAYER_NORM_EPSILON} here, as the authors trained"]


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Arrays of one .safetensors file, or of a folder with one or with shards and their index."""
    files = [path]
    if path.is_dir():
        if (path / INDEX).is_file():
            index = _read_json(path / INDEX)["weight_map"]
            files = [path / name for name in sorted(set(index.values()))]
        elif (path / WEIGHTS).is_file():
            index, files = None, [path / WEIGHTS]
        else:
            found = ", ".join(sorted(inner.name for inner in path.iterdir()))
            raise UnreadableWeights(f"{path} has no {WEIGHTS} and no {INDEX} (found: {found})")
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UnreadableWeights(f"{path / INDEX} names shards that are not there: {', '.join(missing)}")
        arrays = {name: array for file in files for name, array in read_file(file).items()}
        absent = sorted(set(index or ()) - arrays.keys())
        if absent:
            raise UnreadableWeights(f"{path}: its shards do not hold what {INDEX} promises: {', '.join(absent[:8])}")
        return arrays
    return read_file(path)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnreadableWeights(f"{path} is no JSON ({error}): copy it again") from error


def write_folder(path: str | Path, weights: Weights) -> list[str]:
    """Writes config.json and model.safetensors for `from_pretrained`; returns what could not be taken along.

    VideoMAEForPreTraining predicts pixels: of other pre-training (SIGMA) the encoder is written, as VideoMAEModel.
    """
    folder, notes = Path(path), []
    if weights.kind == "pretrain" and not _predicts_pixels(weights):
        parts = sorted(set(weights.params) - {"encoder"})
        notes.append(
            f"written as VideoMAEModel, without {', '.join(parts)}: VideoMAEForPreTraining predicts pixels only"
        )
        sizes = weights.sizes | {"final_norm": True}
        weights = Weights("encoder", {"encoder": weights.params["encoder"]}, sizes, weights.source)
    names = DINOV2 if weights.kind == "teacher" else VIDEOMAE
    config = _teacher_config(weights) if weights.kind == "teacher" else _video_config(weights)
    arrays = from_authors(_authors_arrays(weights), names, weights.kind)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / WEIGHTS, arrays, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return notes


def _predicts_pixels(weights: Weights) -> bool:
    pt, ph, pw = weights.sizes["tube_size"]
    parts = set(weights.params)
    return weights.sizes["target_width"] == pt * ph * pw * 3 and not parts & {"prototypes", "projection"}


def _authors_arrays(weights: Weights) -> dict[str, np.ndarray]:
    if weights.kind != "teacher":
        return published_arrays(weights)
    if not weights.sizes["layer_scale"] or not weights.sizes["cls_position"]:
        raise UnreadableWeights(
            f"{weights.source} has no Hugging Face class here: Dinov2Model needs layer scale and a position for cls. "
            "Write it with --to=pth (DINO's and timm's names)"
        )
    return published_arrays(Weights("teacher", weights.params, weights.sizes | {"num_registers": 0}, weights.source))


def _video_config(weights: Weights) -> dict[str, Any]:
    sizes = weights.sizes
    pt, ph, pw = sizes["tube_size"]
    if ph != pw or not isinstance(sizes["image_size"], int) or sizes["positions"] != "sincos_1d":
        raise UnreadableWeights(
            f"{weights.source}: tubes of {ph}x{pw}, images of {sizes['image_size']}, positions {sizes['positions']!r} "
            "are not what VideoMAE's class computes (square, sincos_1d)"
        )
    classes = {
        "pretrain": "VideoMAEForPreTraining",
        "classifier": "VideoMAEForVideoClassification",
        "encoder": "VideoMAEModel",
    }
    config = {
        "architectures": [classes[weights.kind]],
        "model_type": "videomae",
        "image_size": sizes["image_size"],
        "patch_size": ph,
        "num_channels": 3,
        "num_frames": sizes["num_frames"],
        "tubelet_size": pt,
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["num_heads"],
        "intermediate_size": 4 * sizes["width"],
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPSILON,
        "qkv_bias": True,
        "qv_bias": True,
        "use_mean_pooling": weights.kind == "classifier" or "norm" not in weights.params["encoder"],
        "norm_pix_loss": True,
    }
    if weights.kind == "pretrain":
        config |= {
            "decoder_hidden_size": sizes["decoder_width"],
            "decoder_num_hidden_layers": sizes["decoder_depth"],
            "decoder_num_attention_heads": sizes["decoder_num_heads"],
            "decoder_intermediate_size": 4 * sizes["decoder_width"],
        }
    if weights.kind == "classifier":
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(sizes["num_classes"])}
        config["label2id"] = {f"LABEL_{i}": i for i in range(sizes["num_classes"])}
    return config


def _teacher_config(weights: Weights) -> dict[str, Any]:
    sizes = weights.sizes
    registers = sizes["num_registers"]
    config = {
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "image_size": sizes["position_grid"][0] * sizes["patch_size"],
        "patch_size": sizes["patch_size"],
        "num_channels": 3,
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["num_heads"],
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPSILON,
        "layerscale_value": 1.0,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "use_mask_token": False,
    }
    return config | ({"num_register_tokens": registers} if registers else {})
