"""Weights in one file of our own: an .npz whose keys are parameter paths ('encoder/blocks/attn/qkv'), no pickles.

Used for frozen teachers (`--teacher`) and for handing over an encoder.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from sigma_jax.checkpoints.torch_weights import WeightsMismatch, unflatten


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Nested dicts of arrays become 'a/b/c' -> array."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}


def save_weights(path: str | Path, tree: Any) -> None:
    """Writes nested dicts of arrays to `path` (.npz)."""
    with open(path, "wb") as file:
        np.savez(file, **flatten(tree))


def load_weights(path: str | Path, abstract: Any) -> Any:
    """Reads `path` into the structure of `abstract` (shapes), strictly.

    Raises:
      FileNotFoundError, WeightsMismatch: no such file, no such format, or the four lists of what does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}: expected an .npz written by sigma_jax")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
    except (ValueError, OSError, EOFError) as error:
        raise WeightsMismatch(f"{path} is no .npz of arrays ({error}): expected a file written by sigma_jax") from error
    wanted = _flat_shapes(abstract)
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    both = sorted(wanted.keys() & found.keys())
    other = [f"{k}: file {found[k].shape}, model {wanted[k]}" for k in both if found[k].shape != wanted[k]]
    if missing or unexpected or other:
        raise WeightsMismatch(
            f"{path} does not fit the model.\n  missing: {missing or 'none'}\n  unexpected: {unexpected or 'none'}\n"
            f"  other shape: {other or 'none'}"
        )
    return unflatten({name: array.astype(np.float32) for name, array in found.items()})


def _flat_shapes(abstract: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(abstract)
    return {"/".join(str(key.key) for key in path): tuple(leaf.shape) for path, leaf in leaves}
