"""Weights in one file of our own: an .npz of parameter paths ('encoder/blocks/attn/qkv') and one JSON entry.

The JSON entry says kind, sizes (heads too, which no array tells), source and content digest. No pickles. What every
format becomes in memory is `Weights`.
"""

import dataclasses
import functools
import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sigma_jax.runtime.errors import UserError, refusal
from sigma_jax.runtime.files import replacing

METADATA = "__metadata__"
FORMAT = "sigma_jax weights 1"
KINDS = ("pretrain", "classifier", "encoder", "teacher")  # weights/torch_weights.py says what each holds


class UnreadableWeights(UserError, ValueError):
    """A file that is no weights file, is damaged or refused; the message names the file and what to do."""


class WeightsMismatch(UserError, ValueError):
    """Names, shapes or facts that do not fit, listed in the message."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters outside of any model.

    kind: one of torch_weights.KINDS. params: nested dicts of float32 numpy arrays, our names and layouts. sizes: the
    facts of weights/facts.py by name. source: where they came from. notes: what a reader should be told. assumed: names
    of those sizes that nobody recorded. content: the digest of the file, where `params` have been rearranged since.
    """

    kind: str
    params: dict
    sizes: dict[str, Any]
    source: str
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    content: str = ""

    def digest(self) -> str:
        """Content digest, equal in every format; computed once."""
        return self.content or self._digest

    @functools.cached_property
    def _digest(self) -> str:
        return content_digest(flatten(self.params))


def content_digest(flat: dict[str, np.ndarray]) -> str:
    """16 hexadecimal digits of SHA-256 over names, shapes and bits of 'a/b/c' -> array; the same in every format."""
    digest = hashlib.sha256()
    for name in sorted(flat):
        array = np.ascontiguousarray(flat[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()[:16]


def write_npz(path: str | Path, weights: Weights) -> None:
    """Writes `path` (.npz); it appears under its name only when complete."""
    path, flat = Path(path), flatten(weights.params)
    metadata = {
        "format": FORMAT,
        "kind": weights.kind,
        "sizes": weights.sizes,
        "assumed": weights.assumed,
        "source": weights.source,
        "digest": weights.digest(),
    }
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **{METADATA: np.asarray(json.dumps(metadata))}, **flat)


def read_npz(path: str | Path) -> Weights:
    """Reads what `write_npz` wrote.

    Raises:
      UnreadableWeights: no such format, no metadata, or other arrays than were written.
    """
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as file:
            flat = dict(file)
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        damaged = f"{path} is damaged or no .npz of plain arrays ({error}): convert the original again"
        raise refusal(error, path) or UnreadableWeights(damaged) from error
    if METADATA not in flat:
        names = ", ".join(sorted(flat)[:4])
        raise UnreadableWeights(
            f"{path} has no {METADATA} entry (arrays: {names}...): expected a file written by sigma_jax.tools.convert"
        )
    metadata = json.loads(str(flat.pop(METADATA)))
    if metadata.get("format") != FORMAT or metadata.get("kind") not in KINDS:
        raise UnreadableWeights(
            f"{path} says format {metadata.get('format')!r}, kind {metadata.get('kind')!r}; expected {FORMAT!r} and "
            f"one of {', '.join(KINDS)}: convert the original with this version"
        )
    digest = content_digest(flat)
    if digest != metadata["digest"]:
        raise UnreadableWeights(
            f"{path} is damaged: content {digest}, written as {metadata['digest']}; convert the original again"
        )
    source = f"{path} (from {metadata['source']})"
    assumed = tuple(metadata.get("assumed", ()))
    return Weights(metadata["kind"], unflatten(flat), from_json(metadata["sizes"]), source, assumed=assumed)


def from_json(sizes: dict[str, Any]) -> dict[str, Any]:
    """Sizes as JSON holds them, with tuples for its lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts become 'a/b/c' -> leaf."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


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
