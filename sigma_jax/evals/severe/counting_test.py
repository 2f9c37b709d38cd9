"""The score UCF-RC: counts the cycles of every clip of a split and compares them to the annotation.

Letters: T frames of a clip with padding, n windows, F input frames of a window.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from sigma_jax.data.cycle_clips import CyclesSpec
from sigma_jax.data.loader import Loader
from sigma_jax.evals.multi_view import ResultFiles, named, params_hash
from sigma_jax.evals.severe.counting import Network, count_cycles
from sigma_jax.evals.severe.counting_scores import count_scores
from sigma_jax.models.repetition import Heads, split_heads, window_pixels
from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.sharding import batch_sharding, replicated, traced_on
from sigma_jax.runtime.trees import Params

Look = Callable[[Params, np.ndarray, int], Network]


def look_fn(outputs: Callable[[Params, jax.Array], jax.Array], mesh: Mesh, windows_at_once: int) -> Look:
    """Makes the function of (params, clip uint8 [T H W 3], its length) that returns a Network for windows of the clip.

    Every device holds the clip and computes its share of the windows; every process gets all outputs.

    Args:
      outputs: function of params and pixels [n F H W 3] that returns [n 6*A].
      mesh: the devices.
      windows_at_once: windows in one call, over all devices.
    """

    def forward(params, video, frames, length):
        return outputs(params, window_pixels(video, frames, length))

    compiled = jax.jit(traced_on(mesh, forward), out_shardings=replicated(mesh))
    most = max(windows_at_once // mesh.size, 1)

    def rows_of(windows: int) -> int:
        """Rows of a call: a power of two on every device, so that few programs are compiled, or the most."""
        on_each = -(-windows // mesh.size)
        return mesh.size * min(most, 1 << (on_each - 1).bit_length())

    def look(params: Params, video: np.ndarray, length: int) -> Network:
        on_devices = jax.make_array_from_process_local_data(replicated(mesh), video)

        def network(frames: np.ndarray) -> Heads:
            padded = np.pad(frames, ((0, -len(frames) % rows_of(len(frames))), (0, 0)), mode="edge").astype(np.int32)
            parts = []
            for rows in np.split(padded, len(padded) // rows_of(len(frames))):
                spread = jax.make_array_from_callback(rows.shape, batch_sharding(mesh), lambda at, rows=rows: rows[at])
                parts.append(jax.device_get(compiled(params, on_devices, spread, np.int32(length))))
            return split_heads(np.concatenate(parts)[: len(frames)].astype(np.float64))

        return network

    return look


@dataclasses.dataclass(frozen=True)
class CountingTest:
    """Evaluator of repetition counting on a split (counting_scores.py).

    Attributes:
      name: prefix of the numbers, as in test/relative_error.
      look: made by `look_fn`.
      open_clips: opens one pass with one clip a batch, the same on all processes.
      clips: the form of the clips.
      num_frames: F.
      every, best_by: see evals/protocol.py.
      files: files of the result; None: none are written.
    """

    name: str
    look: Look
    open_clips: Callable[[], Loader]
    clips: CyclesSpec
    num_frames: int
    every: Duration | None = None
    best_by: str | None = None
    files: ResultFiles | None = None

    def run(self, params: Params, step: int) -> Iterator[tuple[str, float]]:
        """Also yields `points`, 100 (1 - relative error): higher is better, for keeping the best weights."""
        videos, unreadable = self.count(params)
        if not videos:
            raise InvalidValue(f"nothing to measure: none of {len(unreadable)} clips could be read: {unreadable[:1]}")
        numbers = count_scores(*(np.array([video[name] for video in videos]) for name in ("predicted", "true")))
        if unreadable:
            logging.warning("INCOMPLETE: %d clips could not be read: %s", len(unreadable), unreadable)
        if self.files is not None:
            weights = {"step": step, "hash": params_hash(params)}  # a collective: all processes must call it
            if jax.process_index() == 0:
                counts = {"num_videos": len(videos), "num_videos_in_split": len(videos) + len(unreadable)}
                self.files.write({**numbers, **counts, "videos": videos}, unreadable, weights)
        numbers = numbers | {"points": 100.0 * (1.0 - numbers["relative_error"])}
        yield from ((f"{self.name}/{name}", value) for name, value in numbers.items())

    def count(self, params: Params) -> tuple[list[dict], list[dict]]:
        """({key, predicted, true} of every clip, entries of clips that could not be read)."""
        videos, unreadable, loader = [], [], self.open_clips()
        try:
            for batch in loader:
                record, key = int(batch["record"][0]), bytes(batch["key"][0]).rstrip(b"\0")
                if not batch["weight"][0]:
                    unreadable.append(record)
                    continue
                labels = self.clips.unpack(batch["label"])
                length = int(labels.length[0])
                found = count_cycles(self.look(params, batch["video"][0], length), length, self.num_frames)
                name = key.decode("utf-8", "backslashreplace")
                videos.append({"key": name, "predicted": found.count, "true": int(labels.count[0])})
            return videos, named(unreadable, loader)
        finally:
            loader.close()
