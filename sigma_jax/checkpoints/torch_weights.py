"""Names and layouts of the authors' PyTorch weights <-> our parameter trees, on numpy arrays.

Letters: D width, P numbers in a tube or patch, L blocks. A torch Linear is [out, in], ours [in, out]; a torch patch
convolution is [D, 3, (pt,) ph, pw], ours [P, D] with the channel fastest; our blocks are stacked along L.
Kinds of file: 'pretrain' (SIGMA, VideoMAE), 'classifier' (finetuned), 'teacher' (DINO, DINOv2 in timm's layout).
"""

import dataclasses
import re

import numpy as np

KINDS = ("pretrain", "classifier", "teacher")


class WeightsMismatch(ValueError):
    """Names or shapes that do not fit, listed in the message."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array: our path ('/'-separated), torch's name ('{i}' = block), and how the layout changes."""

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
    """Every array that a kind of file may hold."""
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
    if kind == "teacher":
        return [
            Leaf("cls", "cls_token", "row"),
            Leaf("positions", "pos_embed", "row"),
            Leaf("registers", "reg_token", "row"),
            *_embed("embed", "patch_embed.proj"),
            *_blocks("blocks", "blocks"),
            *_norm("norm", "norm"),
        ]
    raise ValueError(f"kind {kind!r} is unknown: choose one of {KINDS}")


def _to_ours(array: np.ndarray, layout: str) -> np.ndarray:
    if layout == "linear":
        return array.T
    if layout == "row":
        return array[0]
    if layout == "conv":  # [D 3 (pt) ph pw] -> [(pt) ph pw 3 D] -> [P D]
        return np.moveaxis(array, (0, 1), (-1, -2)).reshape(-1, array.shape[0])
    return array


def from_torch(arrays: dict[str, np.ndarray], kind: str) -> dict:
    """torch name -> array becomes our nested tree; every array must find its place.

    Raises:
      WeightsMismatch: names we do not know, or blocks of which some miss an array; all are listed.
    """
    by_pattern = {}
    for leaf in leaves_of(kind):
        pattern = re.escape(leaf.torch_name).replace(re.escape("{i}"), r"(\d+)")
        by_pattern[re.compile(f"^{pattern}$")] = leaf
    flat, stacks, unknown = {}, {}, []
    for name, array in arrays.items():
        for pattern, leaf in by_pattern.items():
            match = pattern.match(name)
            if match and match.groups():
                stacks.setdefault(leaf.path, {})[int(match[1])] = _to_ours(np.asarray(array), leaf.layout)
            elif match:
                flat[leaf.path] = _to_ours(np.asarray(array), leaf.layout)
            if match:
                break
        else:
            unknown.append(name)
    if unknown:
        raise WeightsMismatch(f"names that a {kind!r} file does not have: {', '.join(sorted(unknown))}")
    for path, layers in stacks.items():
        stem = path.split("/blocks/")[0]
        siblings = [set(v) for p, v in stacks.items() if p.split("/blocks/")[0] == stem]
        wanted = set(range(max(map(max, siblings)) + 1))
        if set(layers) != wanted:
            raise WeightsMismatch(f"{path}: blocks {sorted(wanted - set(layers))} are missing")
        flat[path] = np.stack([layers[i] for i in sorted(layers)])
    return unflatten(flat)


def unflatten(flat: dict[str, np.ndarray]) -> dict:
    """'a/b/c' -> array becomes nested dicts."""
    tree: dict = {}
    for path, array in flat.items():
        *parents, last = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = array
    return tree
