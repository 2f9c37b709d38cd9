"""Stores features of a frozen network on disk, so that they are computed once per split, view and weights.

A file is named by a hash of everything that determines its content: other weights or views have other files.

Letters: n clips, D feature width.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from sigma_jax.evals.features import Batch, FeatureFn, extract_all
from sigma_jax.runtime.errors import refusal
from sigma_jax.runtime.files import replacing


def cached_features(
    folder: str | Path,
    made_of: Mapping[str, Mapping[str, Any]],
    networks: Mapping[str, FeatureFn],
    batches: Callable[[], Iterable[Batch]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The result of `extract_all`; what an earlier call has computed from the same `made_of` is read.

    Args:
      folder: of the files `<hash>.npz`; `<hash>.json` beside each holds its `made_of`.
      made_of: for each network JSON that determines its features: hash of the weights, view, identity of the data
        (data/identity.py).
      networks, batches: arguments of `extract_all`. A network whose file exists is not called; where all files exist,
        `batches` is not called either.

    Returns:
      for each network features float32 [n D] and labels [n].
    """
    paths = {name: _path(Path(folder), made_of[name]) for name in networks}
    found = {name: kept for name, path in paths.items() if (kept := _read(path))}
    missing = {name: network for name, network in networks.items() if name not in found}
    if missing:
        for name, (features, labels) in extract_all(missing, batches()).items():
            path = paths[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial, partial.open("wb") as file:
                np.savez(file, features=features, labels=labels)
            path.with_suffix(".json").write_text(json.dumps(made_of[name], indent=2, sort_keys=True) + "\n")
            found[name] = features, labels
    return {name: found[name] for name in networks}


def _path(folder: Path, made_of: Mapping[str, Any]) -> Path:
    text = json.dumps(made_of, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"


def _read(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(features, labels) of a file; None if it does not exist or is damaged."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as arrays:
            logging.info("features from %s", path)
            return arrays["features"], arrays["labels"]
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if refused := refusal(error, path):
            raise refused from error
        logging.warning("%s is damaged (%s): computed again", path, error)
        return None
