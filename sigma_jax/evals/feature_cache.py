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

from sigma_jax.evals.features import Batch, FeatureFn, extract
from sigma_jax.runtime.errors import refusal
from sigma_jax.runtime.files import replacing


def cached_features(
    folder: str | Path, made_of: Mapping[str, Any], feature_fn: FeatureFn, batches: Callable[[], Iterable[Batch]]
) -> tuple[np.ndarray, np.ndarray]:
    """The result of `extract`, computed or read from an earlier call with the same `made_of`.

    Args:
      folder: of the files `<hash>.npz`; `<hash>.json` beside each holds `made_of`.
      made_of: JSON that determines the features: hash of the weights, view, identity of the data (data/identity.py).
      feature_fn, batches: arguments of `extract`; not called if the file exists.

    Returns:
      features float32 [n D], labels [n].
    """
    text = json.dumps(made_of, sort_keys=True)
    path = Path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
    if path.is_file():
        try:
            with np.load(path) as arrays:
                logging.info("features from %s", path)
                return arrays["features"], arrays["labels"]
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            if refused := refusal(error, path):
                raise refused from error
            logging.warning("%s is damaged (%s): computed again", path, error)
    features, labels = extract(feature_fn, batches())
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, features=features, labels=labels)
    path.with_suffix(".json").write_text(json.dumps(made_of, indent=2, sort_keys=True) + "\n")
    return features, labels
