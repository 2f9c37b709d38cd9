"""Sizes of a model from its arrays.

Letters: D width, L blocks, P numbers in a tube or patch. No array tells the number of heads: it is width / 64, as in
every published model of the family but ViT-H (80), unless the caller says otherwise.
"""

import math
from typing import Any

from sigma_jax.weights.torch_weights import WeightsMismatch, flatten

HEAD_WIDTHS = {1280: 80}  # ViT-H: 16 heads; everything else 64
PUBLISHED_VIDEO = {"num_frames": 16, "image_size": 224, "positions": "sincos_1d"}


def infer_sizes(
    kind: str, params: dict, patch: tuple[int, ...], num_heads: int | None = None, decoder_num_heads: int | None = None
) -> dict[str, Any]:
    """Plain numbers that describe the model of `params` (our nested tree).

    Args:
      patch: (pt, ph, pw) of a video model, (ph, pw) of a teacher.
      num_heads, decoder_num_heads: None for width / 64.

    Raises:
      WeightsMismatch: an array that the sizes are read from is missing, or the heads cannot be known.
    """
    flat = flatten(params)

    def shape(path: str) -> tuple[int, ...]:
        if path not in flat:
            raise WeightsMismatch(f"{path} is missing: no {kind!r} model without it")
        return tuple(flat[path].shape)

    if kind == "teacher":
        return _teacher_sizes(shape, flat, patch, num_heads)
    width = shape("encoder/embed/kernel")[1]
    sizes = {
        "width": width,
        "depth": shape("encoder/blocks/attn/qkv")[0],
        "num_heads": heads(width, num_heads, "num_heads"),
        "tube_size": tuple(patch),
        **PUBLISHED_VIDEO,
    }
    if kind == "encoder":
        sizes["final_norm"] = "encoder/norm/scale" in flat
    if kind == "classifier":
        sizes["num_classes"] = shape("head/kernel")[-1]
    if kind == "pretrain":
        decoder_width = shape("decoder/embed/kernel")[1]
        fc = [f"projection/fc{i}/kernel" for i in range(1, 9)]
        sizes |= {
            "decoder_width": decoder_width,
            "decoder_depth": shape("decoder/blocks/attn/qkv")[0],
            "decoder_num_heads": decoder_heads(width, decoder_width, decoder_num_heads),
            "target_width": shape("decoder/head/kernel")[1],
            "num_prototypes": flat["prototypes"].shape[0] if "prototypes" in flat else 0,
            "projection_widths": tuple(flat[name].shape[1] for name in fc if name in flat),
        }
    return sizes


def _teacher_sizes(shape, flat: dict, patch: tuple[int, ...], num_heads: int | None) -> dict[str, Any]:
    """The position table tells its grid and whether it has a row for cls: one of rows, rows - 1 is a square."""
    width, rows = shape("embed/kernel")[1], shape("positions")[0]
    side = math.isqrt(rows)
    if side * side not in (rows, rows - 1):
        raise WeightsMismatch(
            f"positions (pos_embed) has {rows} rows: expected a square number of patches, or one more"
        )
    return {
        "width": width,
        "depth": shape("blocks/attn/qkv")[0],
        "num_heads": heads(width, num_heads, "num_heads"),
        "patch_size": patch[0],
        "num_registers": flat["registers"].shape[0] if "registers" in flat else 0,
        "layer_scale": "blocks/scale1" in flat,
        "position_grid": (side, side),
        "cls_position": side * side == rows - 1,
    }


def agreed(recorded: dict[str, Any], given: dict[str, int | None], source: str) -> dict[str, int | None]:
    """Heads from a file that records them and a caller that may know them too: they must not contradict.

    Raises:
      WeightsMismatch: they do.
    """
    for name, count in given.items():
        if count is not None and recorded.get(name) not in (None, count):
            raise WeightsMismatch(f"{source} was made with {name}={recorded[name]}, not {count}")
    return {name: recorded.get(name) if count is None else count for name, count in given.items()}


def heads(width: int, given: int | None, flag: str) -> int:
    """`given`, or width / 64 (80 for width 1280)."""
    if given is None:
        head_width = HEAD_WIDTHS.get(width, 64)
        if width % head_width:
            raise WeightsMismatch(
                f"width {width} is no multiple of {head_width}: say the number of heads with --{flag}"
            )
        return width // head_width
    if given < 1 or width % given:
        raise WeightsMismatch(f"--{flag}={given} does not divide the width {width}")
    return given


def decoder_heads(width: int, decoder_width: int, given: int | None) -> int:
    """`given`, or half the encoder's where its width is half (S, B, L, H), else width / 64."""
    if given is None and width in (384, 768, 1024, 1280) and decoder_width * 2 == width:
        return width // HEAD_WIDTHS.get(width, 64) // 2
    return heads(decoder_width, given, "decoder_num_heads")
