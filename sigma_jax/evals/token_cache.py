"""Stores all tokens of a split on disk, where training reads them batch by batch, as they may exceed the memory.

A folder is named by a hash of everything that determines its content (weights, view, data).

Letters: B rows of a batch, n videos, V views (crops), S temporal segments, N tokens of one clip, D width.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from sigma_jax.evals.attentive_grid import TokenRows
from sigma_jax.evals.features import Batch, computed
from sigma_jax.runtime.errors import InvalidValue

Tokens = Callable[[np.ndarray], jax.Array]  # video uint8 [B F y x 3] -> tokens [B N D]


class CachedTokens(NamedTuple):
    """Stored tokens.

    Attributes:
      tokens: float16 [n V S*N D], on disk.
      labels: [n].
      keys: of the videos.
      unreadable: numbers of records that could not be read and are left out.
    """

    tokens: TokenRows
    labels: np.ndarray
    keys: tuple[str, ...]
    unreadable: tuple[int, ...]


def cached_tokens(
    folder: str | Path,
    made_of: Mapping[str, Any],
    tokens: Tokens,
    batches: Callable[[], Iterable[Batch]],
    views: "Views",
) -> CachedTokens:
    """Tokens of every view of every video, computed or read from an earlier call with the same `made_of`.

    Args:
      folder: of the folders `<hash>`.
      made_of: JSON that determines the tokens: weights, view, data.
      tokens: jitted function of a frozen network.
      batches: opens one pass (data/loader.py, OnePass) over all views; not called if the tokens are stored.
      views: number of videos and views.

    Raises:
      InvalidValue: no video could be read, or tokens that are not finite in half precision.
    """
    text = json.dumps(made_of, sort_keys=True)
    place = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:24]
    if not place.is_dir():
        partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "made_of.json").write_text(json.dumps(made_of, indent=2, sort_keys=True) + "\n")
        try:
            _write(partial, tokens, batches(), views)
            os.replace(partial, place)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    else:
        logging.info("tokens from %s", place)
    about = json.loads((place / "videos.json").read_text())
    rows = np.asarray(about["rows"])
    stored = np.load(place / "tokens.npy", mmap_mode="r")
    return CachedTokens(
        TokenRows(stored, rows), np.asarray(about["labels"]), tuple(about["keys"]), tuple(about["unreadable"])
    )


class Views(NamedTuple):
    """Number of videos, temporal segments and crops; a view has the number segment * num_crops + crop."""

    num_videos: int
    num_segments: int = 1
    num_crops: int = 1


def _write(folder: Path, tokens: Tokens, batches: Iterable[Batch], views: Views) -> None:
    """Writes tokens.npy and videos.json."""
    stored, labels, keys, seen = None, {}, {}, {}
    for batch, result in computed(tokens, batches):
        found = np.asarray(result)
        steps, width = found.shape[1:]
        if stored is None:
            shape = (views.num_videos, views.num_crops, views.num_segments * steps, width)
            stored = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.float16, shape)
        for row, record in enumerate(np.asarray(batch["record"]).tolist()):
            if record < 0:
                continue  # padding
            seen.setdefault(record, 0)
            if batch["weight"][row] <= 0:
                continue  # unreadable
            segment, crop = divmod(int(batch["view"][row]), views.num_crops)
            place = stored[record, crop, segment * steps : (segment + 1) * steps]
            place[:] = found[row]
            if not np.isfinite(place).all():
                raise InvalidValue(f"tokens of record {record} are not finite in half precision: check the weights")
            seen[record] += 1
            labels[record] = np.asarray(batch["label"][row]).tolist()
            keys[record] = bytes(batch["key"][row]).rstrip(b"\0").decode("utf-8", "backslashreplace")
    rows = sorted(record for record, count in seen.items() if count == views.num_segments * views.num_crops)
    if not rows:
        raise InvalidValue(f"of {len(seen)} videos none could be read completely: nothing to probe")
    stored.flush()
    about = {
        "rows": rows,
        "labels": [labels[record] for record in rows],
        "keys": [keys[record] for record in rows],
        "unreadable": sorted(seen.keys() - set(rows)),
    }
    (folder / "videos.json").write_text(json.dumps(about))
