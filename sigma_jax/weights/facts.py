"""Facts about the model to which weights belong: those that follow from arrays, and those that a file records.

`Weights.sizes` holds both. Widths, depths and the volume of a tube follow from the shapes of arrays. The number of
heads, the sides of a tube, the kind of positional embedding, the pooling of a classifier and the class of each row of
its head do not: arrays of the same shapes also fit another model, which would run and be wrong. `matched` compares
these facts with the model that is to be trained or tested.

Letters: D width.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from sigma_jax.data.class_names import spelling
from sigma_jax.models.sizes import VIDEO_SIZES
from sigma_jax.weights.weights_file import Weights, WeightsMismatch, flatten

HEAD_WIDTHS = {1280: 80}  # ViT-H: 16 heads; everything else 64
CLIP = {"num_frames": 16, "image_size": 224}  # of the published models
DECODER = ("decoder_width", "decoder_depth")
CONFIGURED = ("tube_size", "positions", "pooling")  # settings of the same name in config.model
RECORDED = (  # facts that do not follow from arrays
    *("num_heads", "decoder_num_heads", "positions", "pooling", "class_names", "label_hash"),
    *("num_frames", "image_size", "frame_stride", "sampling", "normalize_targets"),
)
LISTED = 4  # class names per list in a message


def sizes_of(kind: str, params: dict, patch: tuple[int, ...]) -> dict[str, Any]:
    """The facts that follow from the arrays of `params` (our nested tree), as plain numbers.

    Args:
      kind: of the model (Weights.kind).
      params: its parameters.
      patch: (pt, ph, pw) of a video model, (ph, pw) of a teacher; only their product follows from our embedding.

    Raises:
      WeightsMismatch: an array that a size is read from is missing.
    """
    flat = flatten(params)

    def shape(path: str) -> tuple[int, ...]:
        if path not in flat:
            raise WeightsMismatch(f"{path} is missing: no {kind!r} model without it")
        return tuple(flat[path].shape)

    if kind == "teacher":
        return _teacher_sizes(shape, flat, patch)
    sizes = {
        "width": shape("encoder/embed/kernel")[1],
        "depth": shape("encoder/blocks/attn/qkv")[0],
        "tube_size": tuple(patch),
    }
    sizes = with_facts_of_arrays(params, sizes)
    if kind == "classifier":
        sizes["num_classes"] = shape("head/kernel")[-1]
    if kind == "pretrain":
        fc = [f"projection/fc{i}/kernel" for i in range(1, 9)]
        sizes |= {
            "decoder_width": shape("decoder/embed/kernel")[1],
            "decoder_depth": shape("decoder/blocks/attn/qkv")[0],
            "target_width": shape("decoder/head/kernel")[1],
            "num_prototypes": flat["prototypes"].shape[0] if "prototypes" in flat else 0,
            "projection_widths": tuple(flat[name].shape[1] for name in fc if name in flat),
        }
    return sizes


def with_facts_of_arrays(params: dict, sizes: dict[str, Any]) -> dict[str, Any]:
    """`sizes` of a video model with final norm and pooling, which files of earlier versions do not record."""
    if "encoder" not in params:
        return sizes
    if "head" in params:
        return {"pooling": "attentive" if "pool" in params else "mean"} | sizes
    return {"final_norm": "norm" in params["encoder"]} | sizes


def _teacher_sizes(shape, flat: dict, patch: tuple[int, ...]) -> dict[str, Any]:
    """Facts of a teacher. The positional embedding has a square number of rows, and one more if cls has a row."""
    rows = shape("positions")[0]
    side = math.isqrt(rows)
    if side * side not in (rows, rows - 1):
        raise WeightsMismatch(
            f"positions (pos_embed) has {rows} rows: expected a square number of patches, or one more"
        )
    return {
        "width": shape("embed/kernel")[1],
        "depth": shape("blocks/attn/qkv")[0],
        "patch_size": patch[0],
        "num_registers": flat["registers"].shape[0] if "registers" in flat else 0,
        "layer_scale": "blocks/scale1" in flat,
        "position_grid": (side, side),
        "cls_position": side * side == rows - 1,
    }


def complete(
    sizes: dict[str, Any], recorded: Mapping[str, Any], given: Mapping[str, int | None], source: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """All facts of a model, and the names of those that are assumed, as neither the file nor the caller gives them.

    Args:
      sizes: facts that follow from the arrays.
      recorded: facts of the file; None where it does not record one.
      given: num_heads and decoder_num_heads of the caller; None where it does not know them.
      source: name of the file, for messages.

    Raises:
      WeightsMismatch: file and caller contradict each other, or a number of heads does not divide the width.
    """
    recorded = {name: value for name, value in recorded.items() if value is not None}
    agreed(recorded, given, source)
    known = recorded | {name: count for name, count in given.items() if count is not None}
    rules: dict[str, Any] = {"num_heads": heads(sizes["width"])}
    if "decoder_width" in sizes:
        rules["decoder_num_heads"] = _decoder_heads(sizes["width"], sizes["decoder_width"])
    if "tube_size" in sizes:
        rules |= CLIP
        known = {"positions": "sincos_1d"} | known  # the only kind in the authors' code
    if "decoder_width" not in sizes:
        known = {k: v for k, v in known.items() if k not in ("decoder_num_heads", "normalize_targets")}
    _check_values(sizes | known, source)
    return sizes | rules | known, tuple(name for name in rules if name not in known)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _check_values(facts: Mapping[str, Any], source: str) -> None:
    """Raises WeightsMismatch where a recorded fact is impossible, since files may hold anything."""
    counts = ("num_heads", "decoder_num_heads", "num_frames", "frame_stride")
    wrong = [name for name in counts if name in facts and not _is_count(facts[name])]
    sides = facts.get("image_size", 1)
    sides = sides if isinstance(sides, tuple) else (sides, sides)
    if len(sides) != 2 or not all(map(_is_count, sides)):
        wrong.append("image_size")
    for name, kind in (("positions", str), ("pooling", str), ("sampling", str), ("normalize_targets", bool)):
        if name in facts and not isinstance(facts[name], kind):
            wrong.append(name)
    if wrong:
        raise WeightsMismatch(
            f"{source}: {wrong[0]}={facts[wrong[0]]!r} cannot be: expected what the model was made of"
        )
    for name, width in (("num_heads", "width"), ("decoder_num_heads", "decoder_width")):
        if name in facts and facts[width] % facts[name]:
            raise WeightsMismatch(f"{source}: {name}={facts[name]} does not divide the width {facts[width]}")
    if "tube_size" in facts:
        clip, tube = (facts.get("num_frames", 0), *sides) if "image_size" in facts else (0,), facts["tube_size"]
        if any(n % size for n, size in zip(clip, tube, strict=False)):
            raise WeightsMismatch(f"{source}: a clip of {clip} is not a whole number of its tubes of {tube}")


def agreed(recorded: Mapping[str, Any], given: Mapping[str, int | None], source: str) -> None:
    """Raises WeightsMismatch where a file records another number of heads than the caller gives."""
    for name, count in given.items():
        if count is not None and recorded.get(name) not in (None, count):
            raise WeightsMismatch(f"{source} was made with {name}={recorded[name]}, not {count}")


def heads(width: int) -> int | None:
    """Number of heads: width / 64 (80 for ViT-H), as in every published model; None if that is no whole number."""
    head_width = HEAD_WIDTHS.get(width, 64)
    return None if width % head_width else width // head_width


def _decoder_heads(width: int, decoder_width: int) -> int | None:
    """Heads of a decoder: half the encoder's if the width is half (S, B, L, H), else width / 64."""
    if width in (384, 768, 1024, 1280) and decoder_width * 2 == width:
        return heads(width) // 2
    return heads(decoder_width)


def require_heads(weights: Weights) -> None:
    """Raises WeightsMismatch if the number of heads is unknown, so that the model cannot be built."""
    for name in ("num_heads", "decoder_num_heads"):
        if weights.sizes.get(name, 1) is None:
            width = weights.sizes["width" if name == "num_heads" else "decoder_width"]
            raise WeightsMismatch(
                f"{weights.source} does not say its number of heads, and its width {width} is no multiple of "
                f"{HEAD_WIDTHS.get(width, 64)}: give {name}"
            )


def check_names_of_head(weights: Weights) -> None:
    """Raises WeightsMismatch where a classifier has more or fewer class names than its head has outputs."""
    names, rows = weights.sizes.get("class_names"), weights.sizes.get("num_classes")
    if names and rows is not None and len(names) != rows:
        raise WeightsMismatch(
            f"{weights.source} names {len(names)} classes ({_short(names)}), and its head has {rows} outputs: which "
            "output is which class is not known. Correct the names, or leave them out"
        )


def matched(
    weights: Weights, model: Mapping[str, Any], *, fresh: Iterable[str] = (), same: Iterable[str] = (), advice: str = ""
) -> Weights:
    """Checks that `weights` fit a video model, and brings the rows of a head into the model's order of classes.

    Args:
      weights: the weights.
      model: facts of the model, by the names of `Weights.sizes`; the `class_names` of a classifier are () if its
        classes are numbers.
      fresh: parts ('head', 'decoder') that may be initialised anew; their facts may differ.
      same: further facts that must agree; others, such as `num_frames`, are only noted.
      advice: what a user of the running command can do about other classes.

    Returns:
      Weights with notes on what differs. `sizes['class_order']` says whether the rows of the head are in the 'same'
      order, were 'moved', have an 'assumed' order (none is recorded), or whether the head is 'fresh'.

    Raises:
      WeightsMismatch: facts differ; the message names the settings that agree with the weights, or both class lists.
    """
    fresh = set(fresh)
    _check_size(weights, model, fresh)
    compared = ["tube_size", "num_heads", "positions", *same]
    compared += ["decoder_num_heads"] * (weights.kind == "pretrain" and "decoder" not in fresh)
    compared += ["pooling"] * (weights.kind == "classifier" and "head" not in fresh)
    compared += ["final_norm"] * ("encoder/norm" not in fresh)
    wrong, notes = [], []
    for name, here in model.items():
        there = weights.sizes.get(name)
        if there is None or _plain(there) == _plain(here) or name in weights.assumed:
            continue
        if name in compared:
            known = name in (*CONFIGURED, *same)
            hint = f" (--config.model.{name}={_literal(there)} agrees with the weights)" if known else ""
            wrong.append(f"{name} is {_literal(there)} in the weights, {_literal(here)} here{hint}")
        elif name in NOTED:
            notes.append(f"{name} is {_literal(there)} in the weights, {_literal(here)} here{NOTED[name]}")
    if wrong:
        raise WeightsMismatch(f"{weights.source} belongs to another model than this config's:\n  " + "\n  ".join(wrong))
    weights = dataclasses.replace(weights, notes=(*weights.notes, *notes))
    if weights.kind != "classifier":
        return weights
    names = weights.sizes.get("class_names")
    if names and "class_names" not in model and "pooling" in model and "head" not in fresh:
        raise WeightsMismatch(
            f"the head of {weights.source} tells classes apart ({_short(names)}), and this task predicts something else"
            f"{advice and f': {advice}'}"
        )
    return _with_classes(weights, model, fresh, advice) if "class_names" in model else weights


NOTED = {
    "num_frames": ": positions are computed anew",
    "image_size": ": positions are computed anew",
    "frame_stride": "",
    "sampling": "",
    "normalize_targets": ": the decoder was trained to predict other pixels",
}


def _check_size(weights: Weights, model: Mapping[str, Any], fresh: set[str]) -> None:
    names = ["width", "depth"]
    if weights.kind == "pretrain" and "decoder_depth" in model and "decoder" not in fresh:
        names += DECODER
    if all(weights.sizes.get(name, model[name]) == model[name] for name in names):
        return

    def said(facts: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {facts[name]}" for name in names)

    fitting = [key for key, size in VIDEO_SIZES.items() if all(getattr(size, n) == weights.sizes.get(n) for n in names)]
    advice = f"choose size={fitting[0]} after the config's colon" if fitting else "none of our sizes has these"
    raise WeightsMismatch(
        f"{weights.source} is a model of {said(weights.sizes)}, this config's of {said(model)}: {advice}"
    )


def _with_classes(weights: Weights, model: Mapping[str, Any], fresh: set[str], advice: str) -> Weights:
    """The classifier's head in the order of the model's classes."""
    theirs, ours = tuple(weights.sizes.get("class_names") or ()), tuple(model.get("class_names") or ())
    if not ours and theirs and all(map(str.isdecimal, theirs)):  # both are numbers
        ours = tuple(map(str, range(model.get("num_classes", len(theirs)))))
    place = {spelling(name): i for i, name in enumerate(theirs)}
    order = [place.get(spelling(name), -1) for name in ours]
    if theirs and ours and not (len(place) == len(theirs) == len(ours) and sorted(order) == list(range(len(ours)))):
        same_names = theirs == ours  # with names that occur twice
        if not same_names and "head" in fresh:
            params = {name: part for name, part in weights.params.items() if name != "head"}
            note = "the head knows other classes and is not used"
            return _noted(weights, "fresh", note, params)
        if not same_names:
            raise WeightsMismatch(_other_classes(weights.source, theirs, ours, advice))
        order = list(range(len(ours)))
    if theirs and ours:
        if order == list(range(len(ours))):
            return _noted(weights, "same", None, weights.params)
        head = {name: array[..., order] for name, array in weights.params["head"].items()}
        note = f"the head's {len(ours)} classes stand in another order ({_short(theirs)}): its rows were moved by name"
        return _noted(weights, "moved", note, weights.params | {"head": head}, ours)
    hashes = weights.sizes.get("label_hash"), model.get("label_hash")
    if None not in hashes and hashes[0] == hashes[1]:
        return _noted(weights, "same", None, weights.params)
    if None not in hashes and "head" not in fresh:
        raise WeightsMismatch(
            f"the head of {weights.source} knows the classes of label map {hashes[0]}, the data have {hashes[1]}: its "
            "rows mean other classes. Use the data set it was trained on, or train a head for this one"
        )
    who = "the head has no class names" if not theirs else "the data's classes are numbers"
    note = f"{who}: row i of the head is taken for class i of the data ({_short(ours or theirs) or 'numbers'})"
    return _noted(weights, "assumed", note, weights.params)


def _noted(weights: Weights, order: str, note: str | None, params: dict, names: tuple[str, ...] | None = None):
    sizes = weights.sizes | {"class_order": order} | ({"class_names": names} if names else {})
    notes = (*weights.notes, note) if note else weights.notes
    return dataclasses.replace(weights, params=params, sizes=sizes, notes=notes, content=weights.digest())


def _other_classes(source: str, theirs: tuple[str, ...], ours: tuple[str, ...], advice: str) -> str:
    known, asked = {spelling(name) for name in theirs}, {spelling(name) for name in ours}
    lines = [f"the head of {source} knows other classes than the data:"]
    lines.append(f"  its {len(theirs)}: {_short(theirs)}")
    lines.append(f"  the data's {len(ours)}: {_short(ours)}")
    only = [name for name in ours if spelling(name) not in known], [n for n in theirs if spelling(n) not in asked]
    lines.append(f"  only in the data: {_short(only[0]) or 'none'}; only in the head: {_short(only[1]) or 'none'}")
    lines.append(f"  Use the data set it was trained on, or train a head for this one{advice and f' ({advice})'}")
    return "\n".join(lines)


def _short(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:LISTED]) + (f", ... {len(names) - LISTED} more" if len(names) > LISTED else "")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _literal(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
