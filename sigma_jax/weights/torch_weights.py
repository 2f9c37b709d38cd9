"""Conversion between the names and layouts of the authors' PyTorch weights and our parameter trees, in NumPy.

Letters: D width, P numbers in a tube or patch, L blocks. A torch Linear is [out, in], ours [in, out]; a torch patch
convolution is [D, 3, (pt,) ph, pw], ours [P, D] with the channel fastest; our blocks are stacked along L.
Kinds of file: 'pretrain' (SIGMA, VideoMAE), 'classifier' (finetuned), 'encoder' (a video encoder alone), 'teacher'
(DINO, DINOv2 in timm's layout).
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.weights.pth import drop_pages
from sigma_jax.weights.weights_file import KINDS, WeightsMismatch, flatten, unflatten


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array: our path ('/'-separated), torch's name ('{i}' for the block), and how its layout differs."""

    path: str
    torch_name: str
    layout: str = "same"  # same | linear | conv | row


def _layer(path: str, name: str) -> list[Leaf]:
    return [Leaf(f"{path}/kernel", f"{name}.weight", "linear"), Leaf(f"{path}/bias", f"{name}.bias")]


def _norm(path: str, name: str) -> list[Leaf]:
    return [Leaf(f"{path}/scale", f"{name}.weight"), Leaf(f"{path}/bias", f"{name}.bias")]


def _embed(path: str, name: str) -> list[Leaf]:
    return [Leaf(f"{path}/kernel", f"{name}.weight", "conv"), Leaf(f"{path}/bias", f"{name}.bias")]


def _blocks(path: str, name: str) -> list[Leaf]:
    inner = [
        *_norm("norm1", "norm1"),
        Leaf("attn/qkv", "attn.qkv.weight", "linear"),
        Leaf("attn/q_bias", "attn.q_bias"),
        Leaf("attn/v_bias", "attn.v_bias"),
        Leaf("attn/qkv_bias", "attn.qkv.bias"),
        *_layer("attn/proj", "attn.proj"),
        *_norm("norm2", "norm2"),
        *_layer("mlp/fc1", "mlp.fc1"),
        *_layer("mlp/fc2", "mlp.fc2"),
        Leaf("scale1", "ls1.gamma"),
        Leaf("scale2", "ls2.gamma"),
    ]
    return [Leaf(f"{path}/{leaf.path}", f"{name}.{{i}}.{leaf.torch_name}", leaf.layout) for leaf in inner]


def leaves_of(kind: str) -> list[Leaf]:
    """All arrays that a file of this kind may hold."""
    if kind == "pretrain":
        return [
            Leaf("prototypes", "prototypes"),
            Leaf("decoder/mask_token", "mask_token"),
            *_embed("encoder/embed", "encoder.patch_embed.proj"),
            *_blocks("encoder/blocks", "encoder.blocks"),
            *_norm("encoder/norm", "encoder.norm"),
            Leaf("decoder/embed/kernel", "encoder_to_decoder.weight", "linear"),
            *_blocks("decoder/blocks", "decoder.blocks"),
            *_norm("decoder/norm", "decoder.norm"),
            *_layer("decoder/head", "decoder.head"),
            *(leaf for i in range(8) for leaf in _layer(f"projection/fc{i + 1}", f"head.{2 * i}")),
        ]
    if kind == "classifier":
        return [
            *_embed("encoder/embed", "patch_embed.proj"),
            *_blocks("encoder/blocks", "blocks"),
            *_norm("norm", "fc_norm"),
            *_layer("head", "head"),
        ]
    if kind == "encoder":
        return [
            *_embed("encoder/embed", "patch_embed.proj"),
            *_blocks("encoder/blocks", "blocks"),
            *_norm("encoder/norm", "norm"),
        ]
    if kind == "teacher":
        return [
            Leaf("cls", "cls_token", "row"),
            Leaf("positions", "pos_embed", "row"),
            Leaf("registers", "reg_token", "row"),
            *_embed("embed", "patch_embed.proj"),
            *_blocks("blocks", "blocks"),
            *_norm("norm", "norm"),
        ]
    raise InvalidValue(f"kind {kind!r} is unknown: choose one of {KINDS}")


def _to_ours(array: np.ndarray, layout: str) -> np.ndarray:
    if layout == "linear":
        return array.T
    if layout == "row":
        return array[0]
    if layout == "conv":  # [D 3 (pt) ph pw] -> [(pt) ph pw 3 D] -> [P D]
        return np.moveaxis(array, (0, 1), (-1, -2)).reshape(-1, array.shape[0])
    return array


def _to_torch(array: np.ndarray, layout: str, patch: tuple[int, ...]) -> np.ndarray:
    if layout == "linear":
        return array.T
    if layout == "row":
        return array[None]
    if layout == "conv":
        return np.moveaxis(array.reshape(*patch, 3, array.shape[-1]), (-1, -2), (0, 1))
    return array


def _find(name: str, leaves: dict[str, Leaf]) -> tuple[Leaf | None, int | None]:
    """The leaf for a torch name, and the number of its block; None where there is none."""
    block = re.search(r"(?<=blocks\.)\d+(?=\.)", name)
    if block is None:
        return leaves.get(name), None
    return leaves.get(f"{name[: block.start()]}{{i}}{name[block.end() :]}"), int(block[0])


def from_torch(arrays: Mapping[str, Any], kind: str, dtype: np.dtype | type | None = None) -> dict:
    """Converts arrays with torch's names to our nested tree of new arrays; every array must have a place in it.

    Arrays may be objects with dtype and shape that NumPy can convert. Arrays of a memory-mapped file are evicted from
    memory as soon as they are copied, so that the weights are never in memory twice.

    Args:
      arrays: by torch's names.
      kind: one of weights_file.KINDS.
      dtype: of the new arrays; None for that of the given ones.

    Raises:
      WeightsMismatch: unknown names, or blocks that lack an array or differ in shape; the message lists all of them.
    """
    leaves = {leaf.torch_name: leaf for leaf in leaves_of(kind)}
    single, stacks, unknown, flawed = {}, {}, [], []
    for name, array in arrays.items():
        leaf, block = _find(name, leaves)
        if leaf is None:
            unknown.append(name)
        elif leaf.layout in ("linear", "conv", "row") and np.ndim(array) < 2:
            flawed.append(f"{name} has shape {np.shape(array)}, expected at least two axes")
        elif block is not None:
            stacks.setdefault(leaf, {})[block] = array
        else:
            single[leaf] = array
    for leaf, layers in stacks.items():
        stem = leaf.path.split("/blocks/")[0]
        depth = 1 + max(max(layers) for other, layers in stacks.items() if other.path.split("/blocks/")[0] == stem)
        flawed += [f"{leaf.torch_name.format(i=i)} is missing" for i in range(depth) if i not in layers]
        first = tuple(layers[min(layers)].shape)
        flawed += [
            f"{leaf.torch_name.format(i=i)} has another shape than in block {min(layers)}"
            for i in sorted(layers)
            if tuple(layers[i].shape) != first
        ]
    if unknown or flawed:
        listed = f"names that a {kind!r} file does not have: {', '.join(sorted(unknown)) or 'none'}"
        raise WeightsMismatch("\n  ".join([listed, *flawed]))
    flat = {leaf.path: _stacked([array], leaf.layout, dtype)[0] for leaf, array in single.items()}
    for leaf, layers in stacks.items():
        flat[leaf.path] = _stacked([layers[i] for i in range(len(layers))], leaf.layout, dtype)
    return unflatten(flat)


def _stacked(layers: list[Any], layout: str, dtype: np.dtype | type | None) -> np.ndarray:
    """A new array [L ...] of layers in our layout; pages of a mapped file are evicted once they are copied."""
    out = None
    for i, layer in enumerate(layers):
        array = np.asarray(layer)
        ours = _to_ours(array, layout)
        if out is None:
            out = np.empty((len(layers), *ours.shape), dtype or ours.dtype)
        out[i, ...] = ours
        drop_pages(array)
    return out


def to_torch(tree: dict, kind: str, patch: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Converts our nested tree to arrays by torch's names, the inverse of `from_torch`.

    Args:
      tree: our parameters.
      kind: one of weights_file.KINDS.
      patch: (pt, ph, pw) of a video model, (ph, pw) of a teacher, which does not follow from our [P D] kernel.

    Raises:
      WeightsMismatch: a parameter that a file of this kind does not have.
    """
    flat = flatten(tree)
    leaves = {leaf.path: leaf for leaf in leaves_of(kind)}
    unknown = sorted(flat.keys() - leaves.keys())
    if unknown:
        raise WeightsMismatch(f"a {kind!r} file has no place for {', '.join(unknown)}")
    arrays = {}
    for path, leaf in leaves.items():
        if path not in flat:
            continue
        if "{i}" in leaf.torch_name:
            for i, layer in enumerate(flat[path]):
                arrays[leaf.torch_name.format(i=i)] = _to_torch(layer, leaf.layout, patch)
        else:
            arrays[leaf.torch_name] = _to_torch(flat[path], leaf.layout, patch)
    return arrays


def torch_names(kind: str) -> dict[str, str]:
    """The authors' names ('{i}' for the block) by our paths, for messages."""
    return {leaf.path: leaf.torch_name for leaf in leaves_of(kind)}
