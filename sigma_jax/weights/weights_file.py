"""`Weights`, which every format becomes in memory, and our own file of weights.

The file is an .npz with one array per parameter path ('encoder/blocks/attn/qkv') and one JSON entry with kind, sizes
(all facts of weights/facts.py), source and content digest. It contains no pickles.
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
    """A file is no weights file, is damaged, or is not supported; the message names the file and what to do."""


class WeightsMismatch(UserError, ValueError):
    """Names, shapes or facts do not fit; the message lists them."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters with the facts that describe their model.

    Attributes:
      kind: one of KINDS.
      params: nested dicts of float32 NumPy arrays, with our names and layouts.
      sizes: the facts of weights/facts.py by name.
      source: the file, for messages.
      notes: sentences for the user.
      assumed: names of those `sizes` that are recorded nowhere.
      content: digest of the file, if `params` have been rearranged since it was read; else "".
    """

    kind: str
    params: dict
    sizes: dict[str, Any]
    source: str
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    content: str = ""

    def digest(self) -> str:
        """Digest of the content, which is equal in every format; computed once."""
        return self.content or self._digest

    @functools.cached_property
    def _digest(self) -> str:
        return content_digest(flatten(self.params))


def content_digest(flat: dict[str, np.ndarray]) -> str:
    """16 hexadecimal digits of SHA-256 over names, types, shapes and bits of arrays by path ('a/b/c')."""
    digest = hashlib.sha256()
    for name in sorted(flat):
        array = np.ascontiguousarray(flat[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()[:16]


def write_npz(path: str | Path, weights: Weights) -> None:
    """Writes weights as .npz; the file gets its name when it is complete."""
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
    """Reads a file of `write_npz`.

    Raises:
      UnreadableWeights: another format, no metadata, or arrays that differ from the written ones.
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
    """Converts sizes from JSON: lists become tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts by path ('a/b/c')."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def unflatten(flat: dict[str, np.ndarray]) -> dict:
    """Nested dicts from arrays by path ('a/b/c')."""
    tree: dict = {}
    for path, array in flat.items():
        *parents, last = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = array
    return tree
