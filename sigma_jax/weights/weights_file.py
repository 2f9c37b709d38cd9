"""Weights in one file of our own: an .npz of parameter paths ('encoder/blocks/attn/qkv') and one JSON entry.

The JSON entry says kind, sizes (heads too, which no array tells), source and content digest. No pickles. What every
format becomes in memory is `Weights`.
"""

import dataclasses
import functools
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sigma_jax.runtime.errors import UserError
from sigma_jax.weights.load_report import content_digest
from sigma_jax.weights.torch_weights import KINDS, flatten, unflatten

METADATA = "__metadata__"
FORMAT = "sigma_jax weights 1"


class UnreadableWeights(UserError, ValueError):
    """A file that is no weights file, is damaged or refused; the message names the file and what to do."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters outside of any model.

    kind: one of torch_weights.KINDS. params: nested dicts of float32 numpy arrays, our names and layouts. sizes: what
    inferred_sizes finds, plain numbers. source: where they came from. notes: what a reader should be told.
    """

    kind: str
    params: dict
    sizes: dict[str, Any]
    source: str
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """Content digest, equal in every format; computed once."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        return content_digest(flatten(self.params))


def write_npz(path: str | Path, weights: Weights) -> None:
    """Writes `path` (.npz); it appears under its name only when complete."""
    path, flat = Path(path), flatten(weights.params)
    metadata = {
        "format": FORMAT,
        "kind": weights.kind,
        "sizes": weights.sizes,
        "source": weights.source,
        "digest": weights.digest(),
    }
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        np.savez(file, **{METADATA: np.asarray(json.dumps(metadata))}, **flat)
    os.replace(partial, path)


def read_npz(path: str | Path) -> Weights:
    """Reads what `write_npz` wrote.

    Raises:
      UnreadableWeights: no such format, no metadata, or other arrays than were written.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            flat = dict(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableWeights(
            f"{path} is damaged or no .npz of plain arrays ({error}): convert the original again"
        ) from error
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
    sizes = {name: tuple(v) if isinstance(v, list) else v for name, v in metadata["sizes"].items()}
    return Weights(metadata["kind"], unflatten(flat), sizes, f"{path} (from {metadata['source']})")
