"""Shards -> clips -> batches with grain: batch i is a pure function of (seed, i).

The stream of a run is the concatenation of its epochs, each a new exact shuffle of all records. Global batch i holds
the places i*G .. i*G + G - 1 of the stream (G = global batch; it may span two epochs), and host h gets its h-th part.
What is random about a clip (frames, crop, replacement of an unreadable record) depends on (seed, place) only. So the
position of a run is one number, whatever the number of workers and hosts.

Workers hand over chunks, whole parts of a batch small enough to be kept in memory several times (slots.py).
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grain
import numpy as np
from absl import flags

from sigma_jax.data import decode, records, schema, tfds_sets, time_limit
from sigma_jax.data.bad_records import BadRecords
from sigma_jax.data.clips import ClipReader, ClipSpec
from sigma_jax.data.decoders import AUTO, Decoding
from sigma_jax.data.slots import Slots, enter_worker
from sigma_jax.runtime.errors import InvalidValue

_CHUNK_BYTES = 2**25
_MAX_REPLACEMENTS = 20
_ENDLESS = 2**60
BATCHES_AHEAD = 2  # prepared by all readers together
KEY_BYTES = 256


class Clips(Protocol):
    """ClipSpec, LabelledSpec: what every row holds."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Which places of the stream a chunk holds: every host's part of a batch is cut into equal chunks."""

    global_batch: int
    process_index: int
    rows: int  # of one host
    chunk_rows: int

    @property
    def chunks_per_batch(self) -> int:
        return self.rows // self.chunk_rows

    def places(self, chunk: int) -> range:
        batch, part = divmod(chunk, self.chunks_per_batch)
        first = batch * self.global_batch + self.process_index * self.rows + part * self.chunk_rows
        return range(first, first + self.chunk_rows)


def make_layout(global_batch: int, process_index: int, process_count: int, spec: Clips) -> Layout:
    """Chunks of at most _CHUNK_BYTES, but at least one clip."""
    if global_batch < 1 or global_batch % process_count:
        raise InvalidValue(f"global_batch {global_batch} does not divide over {process_count} processes")
    rows = global_batch // process_count
    fits = max(_CHUNK_BYTES // math.prod(spec.shape), 1)
    chunk_rows = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= fits)
    return Layout(global_batch, process_index, rows, chunk_rows)


def slot_sizes(layout: Layout, spec: Clips, num_workers: int) -> tuple[int, int]:
    """(slots of shared memory for each worker, bytes of one): chunks ready, and the one that is being filled."""
    ready = math.ceil(BATCHES_AHEAD * layout.chunks_per_batch / num_workers)
    return ready + 1, layout.chunk_rows * math.prod(spec.shape)


class ShuffledChunks:
    """Chunk number -> rows of the endless shuffled stream; `repeats` neighbouring places hold one video."""

    names = ("video", "label", "record")  # of a batch

    def __init__(self, reader: ClipReader, layout: Layout, seed: int, repeats: int = 1):
        self.reader, self.layout, self.seed, self.repeats = reader, layout, seed, repeats
        shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        # grain reshuffles each repetition; looked up by place, nothing is ever listed
        self.order = grain.MapDataset.range(len(reader.source)).shuffle(seed=shuffle_seed).repeat()

    def __call__(self, chunk: int, video: np.ndarray | None = None) -> dict:
        out = empty_chunk(self.layout, self.reader.spec, video)
        for row, place in enumerate(self.layout.places(int(chunk))):
            out["weight"][row] = 1
            if not self._fill(out, row, place):
                out["failure"] = f"{_MAX_REPLACEMENTS} records in a row could not be read, the last: {out['bad'][-1]}"
                break
        return out

    def _fill(self, out: dict, row: int, place: int) -> bool:
        place, copy = divmod(place, self.repeats)
        index = int(self.order[place])
        for attempt in range(_MAX_REPLACEMENTS):
            rng = np.random.default_rng((self.seed, place, attempt))
            try:
                out["video"][row], out["label"][row], _ = self.reader.read(index, rng, copy)
            except (records.BadRecord, decode.BadVideo) as error:
                out["bad"].append(self.reader.describe(index, error))
                index = int(np.random.default_rng((self.seed, place, attempt, 1)).integers(len(self.reader.source)))
            else:
                out["record"][row] = index
                return True
        return False


class EvalChunks:
    """Chunk number -> rows of one pass in order, all views of a record together; rows beyond the end have weight 0."""

    names = ("video", "label", "record", "weight", "view", "key")  # of a batch

    def __init__(self, reader: ClipReader, layout: Layout, allow_incomplete: bool, views: int = 1):
        self.reader, self.layout, self.allow_incomplete, self.views = reader, layout, allow_incomplete, views

    def __call__(self, chunk: int, video: np.ndarray | None = None) -> dict:
        out = empty_chunk(self.layout, self.reader.spec, video)
        for row, place in enumerate(self.layout.places(int(chunk))):
            index, view = divmod(place, self.views)
            if index >= len(self.reader.source):
                continue
            out["record"][row], out["view"][row] = index, view
            try:
                out["video"][row], out["label"][row], key = self.reader.read(index, None, view)
                out["weight"][row] = 1
                name = np.frombuffer(key.encode("utf-8", "surrogateescape")[:KEY_BYTES], np.uint8)
                out["key"][row, : len(name)] = name
            except (records.BadRecord, decode.BadVideo) as error:
                out["bad"].append(self.reader.describe(index, error))
                if not self.allow_incomplete:
                    out["failure"] = f"evaluation needs every video, but this one cannot be read: {out['bad'][-1]}"
        return out


@dataclass(frozen=True)
class IntoSlots:
    """In a worker: chunk number -> rows, their video in a slot of shared memory whose number takes its place."""

    chunks: ShuffledChunks | EvalChunks
    slots: Slots

    def __call__(self, chunk: int) -> dict:
        layout, spec = self.chunks.layout, self.chunks.reader.spec
        number, video = self.slots.take((layout.chunk_rows, *spec.shape))
        out = self.chunks(chunk, video)
        video[out["weight"] == 0] = 0  # what an earlier chunk left where nothing was read
        return out | {"video": number}


def start_worker(worker: int, num_workers: int) -> None:
    """In worker process `worker`. When its parent is killed, Python's tracker of shared memory frees what is left."""
    enter_worker(worker)
    time_limit.end_with_parent()


def empty_chunk(layout: Layout, spec: Clips, video: np.ndarray | None = None) -> dict:
    """Rows to be filled, into `video` where it is given."""
    n = layout.chunk_rows
    return {
        "video": np.zeros((n, *spec.shape), np.uint8) if video is None else video,
        "label": np.full(n, -1, np.int32),
        "record": np.full(n, -1, np.int64),
        "weight": np.zeros(n, np.float32),
        "view": np.zeros(n, np.int32),
        "key": np.zeros((n, KEY_BYTES), np.uint8),
        "bad": [],  # records that could not be read, see ClipReader.describe
        "failure": "",  # why rows are empty that should not be
    }


class Loader(Iterator):
    """Iterator over one host's batches: video uint8 [b F s s 3], label int32 [b], record int64 [b].

    `label` is -1 where a record has no class, `record` the number of the record in its split. Evaluations add `weight`
    float32 [b] (0 for what could not be read, and for padding, whose record is -1), `view` int32 [b] (which view of
    the video) and `key` uint8 [b KEY_BYTES] (the video's name, UTF-8, cut or filled with zeros).
    """

    def __init__(self, chunks: ShuffledChunks | EvalChunks, *, num_batches: int, num_workers: int, bad: BadRecords):
        self.num_records = len(chunks.reader.source)
        self._chunks, self._num_batches, self._num_workers, self._bad = chunks, num_batches, num_workers, bad
        self._next_batch, self._iterator, self._slots = 0, None, None

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
          RuntimeError: too many unreadable records, or in evaluation a single one.
          StopIteration: after the last batch of an evaluation.
        """
        if self._iterator is None:
            self._iterator = iter(self._dataset())
        chunks = [next(self._iterator) for _ in range(self._chunks.layout.chunks_per_batch)]
        for chunk in chunks:
            self._bad.add(chunk["bad"], len(chunk["record"]), chunk["failure"])
        self._next_batch += 1
        parts = {name: [chunk[name] for chunk in chunks] for name in self._chunks.names}
        if self._slots is not None:
            parts["video"] = [self._empty_slots(parts["video"])]
        return {name: part[0] if len(part) == 1 else np.concatenate(part) for name, part in parts.items()}

    def _empty_slots(self, numbers: list[int]) -> np.ndarray:
        layout = self._chunks.layout
        video = np.empty((layout.rows, *self._chunks.reader.spec.shape), np.uint8)
        for i, number in enumerate(numbers):
            self._slots.empty(number, video[i * layout.chunk_rows : (i + 1) * layout.chunk_rows])
        return video

    def _dataset(self) -> grain.IterDataset:
        layout = self._chunks.layout
        per_batch = layout.chunks_per_batch
        numbers = grain.MapDataset.range(self._next_batch * per_batch, self._num_batches * per_batch)
        if not self._num_workers:
            options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=BATCHES_AHEAD * per_batch)
            return numbers.map(self._chunks).to_iter_dataset(options)
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags, which a plain script never parses
        per_worker, size = slot_sizes(layout, self._chunks.reader.spec, self._num_workers)
        self._slots = Slots(self._num_workers, per_worker, size)
        dataset = numbers.map(IntoSlots(self._chunks, self._slots))
        dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        pickled = grain.experimental.DatasetOptions(min_shm_size=2**40)  # what is left is small
        dataset = grain.experimental.WithOptionsIterDataset(dataset, pickled)
        options = grain.MultiprocessingOptions(self._num_workers, per_worker_buffer_size=per_worker - 1)
        return dataset.mp_prefetch(options, worker_init_fn=start_worker)

    def state(self) -> dict[str, int]:
        """The position: number of the batch that comes next. Batches prepared but not handed out do not count."""
        return {"next_batch": self._next_batch}

    def restore(self, state: dict[str, int]) -> None:
        """Continues as a loader that returned state() did, whatever its number of workers or hosts."""
        self.close()
        self._next_batch = int(state["next_batch"])

    def stats(self) -> dict[str, float]:
        """bad_videos (distinct records that could not be read), bad_fraction (of all reads), clips_seen."""
        return self._bad.stats()

    @property
    def bad_records(self) -> list[dict]:
        """What could not be read: record, key, shard, record_in_shard, reason."""
        return list(self._bad.found.values())

    def keys(self, batch: dict[str, np.ndarray]) -> list[str]:
        """Keys of a batch's records, "" for what cannot be read; each is read again."""
        return [self._chunks.reader.key(int(record)) for record in batch["record"]]

    def close(self) -> None:
        """Ends the workers; the next batch would start new ones."""
        if self._slots is not None:
            self._slots.release()
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None
        if self._slots is not None:
            self._slots.close()
            self._slots = None


def pretrain_loader(
    data_dir: str | os.PathLike,
    *,
    split: str = "train",
    num_frames: int,
    frame_stride: int,
    image_size: int,
    global_batch: int,
    seed: int,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    crop: str = "multi_scale",
    max_bad_fraction: float = 0.01,
    bad_records_path: str | os.PathLike | None = None,
    start_batch: int = 0,
    cache_decoded: bool = False,
    decoding: Decoding = AUTO,
) -> Loader:
    """Endless shuffled random clips for pre-training.

    Args:
      data_dir: folder with the shards of `tools.prepare`.
      split: which split of it.
      num_frames, frame_stride, image_size: the clip; see sampling.pretrain_indices.
      global_batch: clips per step over all processes.
      seed: decides order, frames and crops; not negative.
      num_workers: processes that read; 0 reads in threads of this process.
      process_index, process_count: which part of each global batch is this host's.
      crop: multi_scale (published recipe), center, or none (videos must have image_size already).
      max_bad_fraction: share of unreadable records above which the run stops.
      bad_records_path: JSON lines file that names each unreadable record once; one per process.
      start_batch: first batch handed out.
      cache_decoded: keep decoded videos in memory (of each worker, at most clips.CACHE_BYTES); for small data sets.
      decoding: which library decodes videos, and how long one may take.

    Raises:
      DataSetError: the shards are missing or not in order.
      ValueError: settings that make no clip or no equal batches.
    """
    spec = ClipSpec(num_frames, frame_stride, image_size, crop)
    reader = ClipReader(open_source(data_dir, split), spec, cache_decoded, decoding)
    layout = make_layout(global_batch, process_index, process_count, spec)
    bad = BadRecords(max_bad_fraction, bad_records_path, len(reader.source))
    loader = endless_loader(ShuffledChunks(reader, layout, seed), num_workers=num_workers, bad=bad)
    loader.restore({"next_batch": start_batch})
    return loader


def endless_loader(chunks: ShuffledChunks, *, num_workers: int, bad: BadRecords) -> Loader:
    """A loader that never stops."""
    num_batches = _ENDLESS // chunks.layout.global_batch
    return Loader(chunks, num_batches=num_batches, num_workers=num_workers, bad=bad)


def eval_loader(
    data_dir: str | os.PathLike,
    *,
    split: str = "val",
    num_frames: int,
    frame_stride: int,
    image_size: int,
    global_batch: int,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    crop: str = "center",
    allow_incomplete: bool = False,
    decoding: Decoding = AUTO,
) -> Loader:
    """One pass over a split in order, the central clip of each video; the last batch is filled up with weight 0.

    Args as in pretrain_loader. With allow_incomplete a video that cannot be read gets weight 0 and is listed in
    `bad_records`; otherwise it is a RuntimeError that names it.
    """
    if crop == "multi_scale":
        raise InvalidValue("crop 'multi_scale' is random; evaluation takes 'center' or 'none'")
    spec = ClipSpec(num_frames, frame_stride, image_size, crop)
    reader = ClipReader(open_source(data_dir, split), spec, cache_decoded=False, decoding=decoding)
    layout = make_layout(global_batch, process_index, process_count, spec)
    chunks, num_batches = EvalChunks(reader, layout, allow_incomplete), math.ceil(len(reader.source) / global_batch)
    bad = BadRecords(max_fraction=1.0, path=None, num_records=len(reader.source))
    return Loader(chunks, num_batches=num_batches, num_workers=num_workers, bad=bad)


def open_source(data_dir: str | os.PathLike, split: str) -> records.RecordSource | tfds_sets.ArrayRecords:
    """The records of a split, whoever wrote them; raises DataSetError where they are missing or not in order."""
    source = tfds_sets.open_array_records(data_dir, split)
    if source is None:
        read = tfds_sets.find_reader(Path(data_dir)) or schema.decode_record
        source = records.RecordSource(data_dir, split, read)
    if not len(source):
        raise records.DataSetError(f"split {split!r} in {data_dir} holds no records")
    return source
