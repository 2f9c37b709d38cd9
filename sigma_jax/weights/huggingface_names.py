"""Conversion between Hugging Face's parameter names and the authors' names, for NumPy arrays.

Each family has a table of names inside a block and one of names outside. Query, key and value are stacked into qkv.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sigma_jax.weights.weights_file import WeightsMismatch

QKV = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Names:
    """The names of one family.

    Attributes:
      prefixes: that names may begin with.
      block, outside: pairs (Hugging Face, authors) of stems or whole names, inside and outside of blocks.
    """

    prefixes: tuple[str, ...]
    block: tuple[tuple[str, str], ...]
    outside: tuple[tuple[str, str], ...]


VIDEOMAE = Names(
    prefixes=("videomae.",),
    block=(
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("attention.output.dense", "attn.proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ),
    outside=(
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("layernorm", "norm"),
        ("classifier", "head"),
        ("fc_norm", "fc_norm"),
    ),
)
DINOV2 = Names(
    prefixes=("dinov2.", "dinov2_with_registers."),
    block=(
        ("norm1", "norm1"),
        ("norm2", "norm2"),
        ("attention.output.dense", "attn.proj"),
        ("attention.o_proj", "attn.proj"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
    ),
    outside=(
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.register_tokens", "reg_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.mask_token", "mask_token"),
        ("layernorm", "norm"),
    ),
)
IN_BLOCK = re.compile(r"^(?:encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)$")
IN_QKV = re.compile(r"^attention\.(?:attention\.(query|key|value)|([qkv])_proj)\.(weight|bias)$")
QV_BIAS = {"attention.attention.q_bias": "attn.q_bias", "attention.attention.v_bias": "attn.v_bias"}
LETTERS = {"q": "query", "k": "key", "v": "value"}


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    """`name` with its stem translated; None if the table does not contain it."""
    for old, new in table:
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return None


def to_authors(arrays: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Renames arrays from Hugging Face's names to the authors'.

    Unknown names are kept, so that the strict loader lists them as they are in the file.

    Raises:
      WeightsMismatch: a query, key or value without the other two.
    """
    pretrain = any(name.startswith(("decoder.", "encoder_to_decoder.")) for name in arrays)
    out: dict[str, Any] = {}
    split: dict[str, dict[str, Any]] = {}
    for full, array in arrays.items():
        in_decoder = full.startswith("decoder.")
        name = full
        for prefix in names.prefixes:
            name = name.removeprefix(prefix)
        stem = "decoder." if in_decoder else "encoder." if pretrain else ""
        block = IN_BLOCK.match(name)
        if block is None:
            renamed = None if in_decoder else _renamed(name, names.outside)
            out[f"{stem}{renamed}" if renamed else full] = array
            continue
        inner, here = block[2], f"{stem}blocks.{block[1]}."
        parts = IN_QKV.match(inner)
        if parts:
            split.setdefault(f"{here}attn.qkv.{parts[3]}", {})[parts[1] or LETTERS[parts[2]]] = array
        else:
            renamed = QV_BIAS.get(inner) or _renamed(inner, names.block)
            out[f"{here}{renamed}" if renamed else full] = array
    return out | _joined(split)


class _Stacked:
    """Query, key and value stacked along the first axis, which are read from their file on access."""

    def __init__(self, parts: list[Any]):
        self.parts, self.dtype = parts, parts[0].dtype
        self.shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        self.ndim = len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([np.asarray(part, dtype) for part in self.parts])


def _joined(split: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Stacks query, key and value; a bias of query and value alone is VideoMAE's q_bias and v_bias."""
    out = {}
    for name, parts in split.items():
        if name.endswith("bias") and set(parts) == {"query", "value"}:
            stem = name.removesuffix("qkv.bias")
            out |= {f"{stem}q_bias": parts["query"], f"{stem}v_bias": parts["value"]}
            continue
        missing = [part for part in QKV if part not in parts]
        if missing or len({part.shape for part in parts.values()}) > 1:
            shapes = {part: array.shape for part, array in parts.items()}
            raise WeightsMismatch(f"{name}: expected query, key and value of one shape, got {shapes}")
        out[name] = _Stacked([parts[part] for part in QKV])
    return out


def from_authors(arrays: dict[str, np.ndarray], names: Names, kind: str) -> dict[str, np.ndarray]:
    """Renames arrays from the authors' names to Hugging Face's, as `save_pretrained` writes them."""
    block = tuple((new, old) for old, new in names.block if old != "attention.o_proj")
    outside = tuple((new, old) for old, new in names.outside)
    inner_prefix = names.prefixes[0] if kind in ("pretrain", "classifier") else ""
    heads = ("classifier.", "fc_norm.", "mask_token", "encoder_to_decoder.", "decoder.")
    out = {}
    for full, array in arrays.items():
        in_decoder = full.startswith("decoder.")
        name = full.removeprefix("encoder.").removeprefix("decoder.")
        match = re.match(r"^blocks\.(\d+)\.(.+)$", name)
        if match is None:
            renamed = full if in_decoder else _renamed(name, outside) or name
            out[renamed if kind == "teacher" or renamed.startswith(heads) else f"{inner_prefix}{renamed}"] = array
            continue
        stem = f"decoder.decoder_layers.{match[1]}." if in_decoder else f"{inner_prefix}encoder.layer.{match[1]}."
        inner = match[2]
        if inner.startswith("attn.qkv."):
            parts = zip(QKV, np.split(array, 3), strict=True)
            out |= {f"{stem}attention.attention.{part}.{inner[9:]}": piece for part, piece in parts}
        elif inner in QV_BIAS.values():
            out[f"{stem}attention.attention.{inner.removeprefix('attn.')}"] = array
        else:
            out[stem + _renamed(inner, block)] = array
    return out
