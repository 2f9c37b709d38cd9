"""Hugging Face folders (config.json and weights) of VideoMAE, DINOv2 and DINOv2 with registers.

Names are mapped to and from the authors' names (torch_weights). Hugging Face splits qkv into query, key and value and
has no bias for a VideoMAE key. Files contain `q_bias`/`v_bias` (written by transformers) or `query.bias`/`value.bias`
(the names in memory of version 5). Both are read; `q_bias`/`v_bias` are written, which every version loads.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD
from sigma_jax.runtime.errors import refusal
from sigma_jax.runtime.files import replacing
from sigma_jax.weights.huggingface_names import DINOV2, VIDEOMAE, from_authors, to_authors
from sigma_jax.weights.pth import read_pth
from sigma_jax.weights.published import V_JEPA, check_names, foreign, published_arrays, state_dict_of, weights_of
from sigma_jax.weights.weights_file import UnreadableWeights, Weights, WeightsMismatch

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")  # the first one is read
MODELS = {"videomae": VIDEOMAE, "dinov2": DINOV2, "dinov2_with_registers": DINOV2}
FOREIGN = {"vjepa2": V_JEPA, "dinov3_vit": "DINOv3", "dinov3_convnext": "DINOv3", "ijepa": "I-JEPA"}
PATCHES = "embeddings.patch_embeddings.projection.weight"  # in every model of MODELS, in no file of the authors
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_},
}
LAYER_NORM_EPSILON = 1e-6
MAX_EPSILON = 1e-5  # up to this epsilon of the layer norms, outputs agree in four digits


def read_folder(path: str | Path, given: Mapping[str, int | None], which: str = "model") -> Weights:
    """Weights from a folder, or from one file in it.

    Args:
      given: num_heads and decoder_num_heads, None for what the config says.
      which: 'model' or 'ema', for .bin files.

    Raises:
      UnreadableWeights, WeightsMismatch: each names the file, and the key where there is one.
    """
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and not (folder / CONFIG).is_file():
        raise UnreadableWeights(f"{path} has no {CONFIG}: the model's kind and its heads stand there")
    config = _read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    said = check_config(folder, config) if config else []
    arrays, notes = read_arrays(path, which)
    return weights_from(arrays, str(path), given, config, (*notes, *said))


def has_names(arrays: Mapping[str, Any]) -> bool:
    """Whether arrays have the names of Hugging Face."""
    return any(name.endswith(PATCHES) for name in arrays)


def weights_from(
    arrays: Mapping[str, Any], source: str, given: Mapping[str, int | None], config: dict | None, notes: Iterable[str]
) -> Weights:
    """Weights from arrays under Hugging Face's names (or the authors', as timm's files have them).

    Args:
      config: the config.json beside them, None where there is none.
    """
    check_names(arrays, source)
    if not has_names(arrays):
        return weights_of(arrays, source, given, {}, notes)
    if not config:
        notes = (*notes, f"no {CONFIG} beside it: its heads, frames and size are taken for the published ones")
    axes = next(len(array.shape) for name, array in arrays.items() if name.endswith(PATCHES))
    names = MODELS[config["model_type"]] if config else VIDEOMAE if axes == 5 else DINOV2
    try:
        arrays = to_authors(arrays, names)
    except WeightsMismatch as error:
        raise WeightsMismatch(f"{source}: {error}") from error
    weights = weights_of(arrays, source, given, _facts(config, source) if config else {}, notes)
    _check_sizes(config or {}, weights)
    return weights


def _check_sizes(config: dict[str, Any], weights: Weights) -> None:
    """Raises WeightsMismatch where a config.json gives another size than the arrays have, some of which may be lost."""
    sizes = weights.sizes
    found = {"hidden_size": sizes["width"], "num_hidden_layers": sizes["depth"], "num_channels": 3}
    if weights.kind == "teacher":
        found["patch_size"] = sizes["patch_size"]
    else:
        found |= {"tubelet_size": sizes["tube_size"][0], "patch_size": sizes["tube_size"][1]}
    if weights.kind == "classifier":
        found["use_mean_pooling"] = sizes["pooling"] == "mean"
    for name, size in found.items():
        said = config.get(name, size)
        if isinstance(said, int) and said != size:
            raise WeightsMismatch(
                f"{weights.source}: {CONFIG} says {name}={said}, and its arrays are those of {name}={size}: they do "
                "not belong together, or arrays are missing"
            )


def _facts(config: dict[str, Any], source: str) -> dict[str, Any]:
    """The facts in a config.json that do not follow from arrays."""
    facts = {"num_heads": config.get("num_attention_heads")}
    if config["model_type"] != "videomae":
        return facts
    side = config.get("image_size")
    return facts | {
        "decoder_num_heads": config.get("decoder_num_attention_heads"),
        "num_frames": config.get("num_frames"),
        "image_size": tuple(side) if isinstance(side, list) else side,
        "normalize_targets": config.get("norm_pix_loss"),
        "class_names": _class_names(config, source),
    }


def _class_names(config: dict[str, Any], source: str) -> tuple[str, ...] | None:
    """The class of each output by `id2label` and `label2id`; None where neither has names that somebody gave.

    Raises:
      WeightsMismatch: the two contradict each other, or the numbers of the outputs are not 0, 1, 2, ....
    """
    forward, backward = config.get("id2label"), config.get("label2id")
    forward = dict(enumerate(forward)) if isinstance(forward, list) else forward if isinstance(forward, dict) else {}
    backward = backward if isinstance(backward, dict) else {}
    pairs = ({str(number): name for number, name in forward.items()}, {str(n): name for name, n in backward.items()})
    given = [names for names in pairs if any(name != f"LABEL_{i}" for i, name in names.items())]  # the default names
    if not given:
        return None
    if {str(i) for i in range(len(given[0]))} != given[0].keys():
        numbers = ", ".join(list(given[0])[:4])
        raise WeightsMismatch(
            f"{source}: {CONFIG} names the outputs {numbers}, ..., expected 0 to {len(given[0]) - 1}, each once: "
            "correct id2label"
        )
    for i, name in given[-1].items():
        if given[0].get(i) != name:
            raise WeightsMismatch(
                f"{source}: {CONFIG} contradicts itself: output {i} is {given[0].get(i)!r} by id2label, {name!r} by "
                "label2id: correct one of them"
            )
    return tuple(str(given[0][str(i)]) for i in range(len(given[0])))


def check_config(folder: Path, config: dict[str, Any]) -> list[str]:
    """Checks a config.json; returns notes on differences that change outputs in the last digits only.

    Raises:
      WeightsMismatch, UnreadableWeights: another family of models, or a setting that our models do not have.
    """
    path, kind = str(folder / CONFIG), str(config.get("model_type"))
    if kind in FOREIGN:
        raise foreign(path, FOREIGN[kind], f"model_type {kind!r}")
    if kind not in MODELS:
        raise UnreadableWeights(f"{path}: model_type {kind!r}, expected one of {', '.join(MODELS)}")
    if config.get("use_swiglu_ffn"):
        raise foreign(path, "a ViT-g of DINOv2, with SwiGLU instead of an MLP", "use_swiglu_ffn")
    expected = {"hidden_act": ("gelu",), "qkv_bias": (True,), "qv_bias": (True,)}
    for name, allowed in expected.items():
        if name in config and config[name] not in allowed:
            raise UnreadableWeights(f"{path}: {name}={config[name]!r} is not supported, only {allowed[0]!r}")
    if (folder / PROCESSOR).is_file():
        processor = _read_json(folder / PROCESSOR)
        for name, ours in (("image_mean", PIXEL_MEAN), ("image_std", PIXEL_STD)):
            theirs = processor.get(name, ours)
            numbers = [n for n in theirs if isinstance(n, (int, float))] if isinstance(theirs, (list, tuple)) else []
            if len(numbers) != 3 or not np.allclose(numbers, ours, atol=1e-3):
                raise UnreadableWeights(
                    f"{folder / PROCESSOR}: {name} is {theirs}; the models here standardise pixels with {list(ours)}"
                )
    epsilon = config.get("layer_norm_eps", LAYER_NORM_EPSILON)
    if not isinstance(epsilon, (int, float)) or not 0 <= epsilon <= MAX_EPSILON:
        raise UnreadableWeights(
            f"{path}: layer_norm_eps is {epsilon}, expected {LAYER_NORM_EPSILON}, as is computed here"
        )
    if epsilon == LAYER_NORM_EPSILON:
        return []
    return [f"layer_norm_eps is {epsilon} in {CONFIG} and {LAYER_NORM_EPSILON} here, as the authors trained"]


class _Stored:
    """An array of a .safetensors file that is read on access; the file is closed again, so that it holds no memory."""

    def __init__(self, path: Path, name: str, shape: list[int], dtype: np.dtype):
        self.path, self.name, self.shape, self.dtype = path, name, tuple(shape), dtype
        self.ndim = len(shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        with _opened(self.path) as file:
            array = file.get_tensor(self.name)
        return array if dtype is None else array.astype(dtype, copy=False)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            file.read(1)  # errors of safe_open have no number
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        damaged = UnreadableWeights(f"{path} is truncated, damaged or no safetensors ({error}): copy it again")
        raise refusal(error, path) or damaged from error


def read_safetensors(path: Path) -> dict[str, Any]:
    """The arrays of one file by name, each of which is read on access.

    Raises:
      UnreadableWeights: truncated, damaged, or of a type that numpy does not have.
    """
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  a file, no dict
        unknown = [f"{name} as {part.get_dtype()}" for name, part in slices.items() if part.get_dtype() not in DTYPES]
        if unknown:
            raise TypeError(f"{unknown[0]}, expected one of {', '.join(DTYPES)}")
        shapes = {name: (part.get_shape(), np.dtype(DTYPES[part.get_dtype()])) for name, part in slices.items()}
    return {name: _Stored(path, name, *shape) for name, shape in shapes.items()}


def read_arrays(path: Path, which: str = "model") -> tuple[dict[str, Any], list[str]]:
    """(arrays by name, notes) of one file, or of a folder with one file or with shards and their index."""
    if path.is_file():
        files, promised = [path], set()
    else:
        found = next((path / name for name in FILES if (path / name).is_file()), None)
        if found is None:
            names = ", ".join(sorted(inner.name for inner in path.iterdir()))
            raise UnreadableWeights(f"{path} has none of {', '.join(FILES)} (found: {names})")
        files, promised = _shards(found) if found.suffix == ".json" else ([found], set())
    arrays: dict[str, Any] = {}
    notes: list[str] = []
    for file in files:
        if file.suffix == ".safetensors":
            arrays |= read_safetensors(file)
        else:
            inner, said, _ = state_dict_of(read_pth(file), str(file), which)
            arrays |= inner
            notes += said
    absent = sorted(promised - arrays.keys())
    if absent:
        raise UnreadableWeights(f"{path}: its shards do not hold what their index promises: {', '.join(absent[:8])}")
    return arrays, notes


def _shards(index: Path) -> tuple[list[Path], set[str]]:
    """The files and array names in an index."""
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise UnreadableWeights(f"{index} has no weight_map: copy it again")
    if any(Path(name).name != name for name in names.values()):
        raise UnreadableWeights(f"{index} names shards outside of its folder")
    files = [index.parent / name for name in sorted(set(names.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UnreadableWeights(f"{index} names shards that are not there: {', '.join(missing)}")
    return files, set(names)


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnreadableWeights(f"{path} is no JSON ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise UnreadableWeights(f"{path} holds no JSON object: copy it again")
    return content


def write_folder(path: str | Path, weights: Weights) -> list[str]:
    """Writes config.json and model.safetensors for `from_pretrained`; returns notes on what is not written.

    VideoMAEForPreTraining predicts pixels. Of models with other targets (SIGMA) the encoder is written, as
    VideoMAEModel.
    """
    folder, notes = Path(path), []
    if weights.kind == "pretrain" and not _predicts_pixels(weights):
        parts = sorted(set(weights.params) - {"encoder"})
        notes.append(
            f"written as VideoMAEModel, without {', '.join(parts)}: VideoMAEForPreTraining predicts pixels only"
        )
        weights = Weights("encoder", {"encoder": weights.params["encoder"]}, weights.sizes, weights.source)
    names = DINOV2 if weights.kind == "teacher" else VIDEOMAE
    config = _teacher_config(weights) if weights.kind == "teacher" else _video_config(weights)
    arrays = from_authors(_authors_arrays(weights), names, weights.kind)
    folder.mkdir(parents=True, exist_ok=True)
    _write_file(folder / WEIGHTS, arrays)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return notes


def _write_file(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes float32 arrays one after the other; the library would need a second, contiguous copy of all weights.

    The format: eight bytes with the length of the header, the header as JSON (type, shape, first and last byte of every
    array by name), then the bytes. The file gets its name when it is complete.
    """
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for name, array in arrays.items():
        offsets = [position, position + 4 * array.size]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, "<f4").view(np.uint8).reshape(-1).data)


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
        "use_mean_pooling": sizes.get("pooling") == "mean" or sizes.get("final_norm") is False,
    }
    if "normalize_targets" in sizes:
        config["norm_pix_loss"] = sizes["normalize_targets"]
    if weights.kind == "pretrain":
        config |= {
            "decoder_hidden_size": sizes["decoder_width"],
            "decoder_num_hidden_layers": sizes["decoder_depth"],
            "decoder_num_attention_heads": sizes["decoder_num_heads"],
            "decoder_intermediate_size": 4 * sizes["decoder_width"],
        }
    if weights.kind == "classifier":
        names = sizes.get("class_names") or [f"LABEL_{i}" for i in range(sizes["num_classes"])]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
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
