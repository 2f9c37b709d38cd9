"""Shards -> clips -> batches with grain: batch i is a pure function of (seed, i).

The stream of a run is the concatenation of its epochs, each a new permutation of all records. Global batch i holds
the places i*G .. i*G + G - 1 of the stream (G = global batch; it may span two epochs), and host h reads its h-th part.
The random choices of a clip (frames, crop, replacement of an unreadable record) depend on (seed, place) only. So the
position of a run is one number, whatever the number of workers and hosts.

Worker processes fill chunks, equal parts of a batch, in shared memory (slots.py), from which batches are handed out
without a copy.

  open_loader(LoaderSpec(data_dir, "train", ClipSpec(16, 4, 224, "multi_scale"), Shuffled(seed=0), global_batch=256))
"""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grain
import numpy as np
from absl import flags

from sigma_jax.data import decode, records, time_limit
from sigma_jax.data.bad_records import BadRecords, file_name
from sigma_jax.data.clips import ClipReader
from sigma_jax.data.decoders import AUTO, Decoding
from sigma_jax.data.slots import LENT, Rooms, Slots
from sigma_jax.data.source import Source, open_source
from sigma_jax.runtime import signals
from sigma_jax.runtime.errors import InvalidValue

_CHUNK_BYTES = 2**25
_MAX_REPLACEMENTS = 20
_ENDLESS = 2**60
BATCHES_AHEAD = 2  # batches that all readers together prepare ahead
KEY_BYTES = 256  # a batch holds this many bytes of each video's key


class Clips(Protocol):
    """A kind of clips that can be read from videos: ClipSpec, LabelledSpec, MultiLabelSpec, CyclesSpec."""

    shape: tuple[int, ...]  # of one clip
    label_shape: tuple[int, ...]  # of one label; () for one class
    is_random: bool  # whether reading needs a random generator
    num_test_views: int  # of one video

    def make_reader(self, source: Source, cache_decoded: bool, decoding: Decoding) -> ClipReader: ...


@dataclass(frozen=True)
class Shuffled:
    """An endless stream of random clips in shuffled order.

    An unreadable record is counted and replaced by another one, as in the authors' code.

    Attributes:
      seed: decides order, frames, crops and augmentation; not negative.
      repeats: augmented copies of the same frames of a video (repeated augmentation). Copies are neighbours in the
        batch, and a batch of global_batch clips holds global_batch / repeats videos.
      max_bad_fraction: share of unreadable records, 0..1, above which the run stops.
      bad_records_dir: folder (the workdir) in which the file bad_records.file_name lists each unreadable record once.
    """

    seed: int
    repeats: int = 1
    max_bad_fraction: float = 0.01
    bad_records_dir: Path | None = None


@dataclass(frozen=True)
class OnePass:
    """Every record once, in order, with all its test views; the last batch is padded with rows of weight 0.

    Attributes:
      allow_incomplete: whether a record that cannot be read gets weight 0 and is listed in `Loader.bad_records`.
        Otherwise it raises TooManyBadRecords, which names it.
    """

    allow_incomplete: bool = False


@dataclass(frozen=True)
class Workers:
    """The reading processes.

    Attributes:
      num_workers: worker processes of this host; 0: threads of this process.
      process_index, process_count: this process among those of the run.
    """

    num_workers: int = 0
    process_index: int = 0
    process_count: int = 1


@dataclass(frozen=True)
class LoaderSpec:
    """What a loader reads, in which order, and by which processes.

    Attributes:
      data_dir, split: see source.open_source.
      clips: which clips are read from a video, such as ClipSpec (clips.py) or LabelledSpec (labelled.py).
      order: Shuffled for training, OnePass for evaluation.
      global_batch: clips of a batch over all processes.
      workers: the reading processes.
      decoding: which library decodes videos, and its time limit.
      cache_decoded: keep decoded videos in memory (at most clips.CACHE_BYTES in each worker), for small data sets.
    """

    data_dir: str | os.PathLike
    split: str
    clips: Clips
    order: Shuffled | OnePass
    global_batch: int
    workers: Workers = Workers()
    decoding: Decoding = AUTO
    cache_decoded: bool = False


@dataclass(frozen=True)
class Layout:
    """How batches are divided: every host's part of a batch consists of equal chunks."""

    global_batch: int
    process_index: int
    rows: int  # clips of a batch on one host
    chunk_rows: int  # clips of a chunk

    @property
    def chunks_per_batch(self) -> int:
        return self.rows // self.chunk_rows

    def places(self, chunk: int) -> range:
        batch, part = divmod(chunk, self.chunks_per_batch)
        first = batch * self.global_batch + self.process_index * self.rows + part * self.chunk_rows
        return range(first, first + self.chunk_rows)


def make_layout(global_batch: int, process_index: int, process_count: int, clip_bytes: int) -> Layout:
    """The layout with the largest chunks of at most _CHUNK_BYTES, but of at least one clip.

    Raises:
      InvalidValue: the batch cannot be divided equally among the processes.
    """
    if global_batch < 1 or global_batch % process_count:
        raise InvalidValue(f"global_batch {global_batch} does not divide over {process_count} processes")
    rows = global_batch // process_count
    fits = max(_CHUNK_BYTES // clip_bytes, 1)
    chunk_rows = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= fits)
    return Layout(global_batch, process_index, rows, chunk_rows)


def chunks_ahead(layout: Layout, num_workers: int) -> int:
    """Chunks that each worker prepares ahead, so that all workers together prepare BATCHES_AHEAD batches."""
    return math.ceil(BATCHES_AHEAD * layout.chunks_per_batch / num_workers)


def shared_rooms(layout: Layout, clip_bytes: int, num_workers: int) -> Rooms:
    """Size of the shared memory: chunks that are ready, one more for each worker, and the batches that are lent."""
    chunks = num_workers * (chunks_ahead(layout, num_workers) + 1)
    count = math.ceil(chunks / layout.chunks_per_batch) + LENT
    return Rooms(count, layout.chunks_per_batch, layout.chunk_rows * clip_bytes)


class ShuffledChunks:
    """Reads chunk i of the endless shuffled stream, in which `repeats` neighbouring places hold one video."""

    names = ("video", "label", "record")  # of a batch

    def __init__(self, reader: ClipReader, layout: Layout, order: Shuffled):
        self.reader, self.layout, self.seed, self.repeats = reader, layout, order.seed, order.repeats
        shuffle_seed = int(np.random.SeedSequence(order.seed).generate_state(1)[0])
        # grain permutes each epoch anew and computes a record's number from its place, without a list
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
    """Reads chunk i of one pass in order, with all views of a record together; padding rows have weight 0."""

    names = ("video", "label", "record", "weight", "view", "key")  # of a batch

    def __init__(self, reader: ClipReader, layout: Layout, order: OnePass, views: int):
        self.reader, self.layout, self.views = reader, layout, views
        self.allow_incomplete = order.allow_incomplete

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
    """In a worker process: reads a chunk, its clips into shared memory; its `video` is then the number of the batch."""

    chunks: ShuffledChunks | EvalChunks
    slots: Slots

    def __call__(self, chunk: int) -> dict:
        layout, spec = self.chunks.layout, self.chunks.reader.spec
        video = self.slots.take(int(chunk), (layout.chunk_rows, *spec.shape))
        out = self.chunks(chunk, video)
        video[out["weight"] == 0] = 0  # the memory holds an earlier chunk where nothing was read
        return out | {"video": int(chunk) // layout.chunks_per_batch}


@contextlib.contextmanager
def _readable_flag() -> Iterator[None]:
    """Makes grain's absl flag readable inside the block, for programs that do not parse absl flags.

    Grain reads this flag when it starts worker processes, which would fail before flags are parsed. Inside the block
    the flag counts as given, with its default value.
    """
    flag = flags.FLAGS["grain_enable_multiprocess_worker_profiling"]
    flag.present += 1
    try:
        yield
    finally:
        flag.present -= 1


def start_worker(worker: int, num_workers: int) -> None:
    """Runs first in each worker process; grain requires both arguments."""
    time_limit.end_with_parent()


def empty_chunk(layout: Layout, spec: Clips, video: np.ndarray | None = None) -> dict:
    """A chunk without content, whose clips will be written into `video` where it is given."""
    n = layout.chunk_rows
    return {
        "video": np.zeros((n, *spec.shape), np.uint8) if video is None else video,
        "label": np.full((n, *spec.label_shape), -1, np.int32),
        "record": np.full(n, -1, np.int64),
        "weight": np.zeros(n, np.float32),
        "view": np.zeros(n, np.int32),
        "key": np.zeros((n, KEY_BYTES), np.uint8),
        "bad": [],  # entries of unreadable records, see ClipReader.describe
        "failure": "",  # why the chunk could not be filled; "" if it was
    }


class Loader(Iterator):
    """Iterator over one host's batches: video uint8 [b F s s 3], label int32 [b ...], record int64 [b].

    `label` has the clips' `label_shape`; a single class is -1 where a record has none. `record` is the number of the
    record in its split. Batches of OnePass also have `weight` float32 [b] (0 for records that cannot be read, and for
    padding, whose record is -1), `view` int32 [b] (number of the test view) and `key` uint8 [b KEY_BYTES] (the video's
    key in UTF-8, truncated or padded with zeros).
    """

    def __init__(self, chunks: ShuffledChunks | EvalChunks, *, num_batches: int, num_workers: int, bad: BadRecords):
        self.num_records = len(chunks.reader.source)
        self._chunks, self._num_batches, self._num_workers, self._bad = chunks, num_batches, num_workers, bad
        self._next_batch, self._iterator, self._slots, self._open = 0, None, None, contextlib.ExitStack()

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
          TooManyBadRecords: too many records cannot be read, or in an evaluation a single one.
          StopIteration: after the last batch of an evaluation.
        """
        if self._iterator is None:
            self._open.enter_context(_readable_flag())
            self._iterator = iter(self._dataset())
        with signals.shielded():  # grain starts a worker when its first chunk is wanted
            chunks = [next(self._iterator) for _ in range(self._chunks.layout.chunks_per_batch)]
        for chunk in chunks:
            self._bad.add(chunk["bad"], len(chunk["record"]), chunk["failure"])
        self._next_batch += 1
        parts = {name: [chunk[name] for chunk in chunks] for name in self._chunks.names}
        if self._slots is not None:
            rows = (self._chunks.layout.rows, *self._chunks.reader.spec.shape)
            parts["video"] = [self._slots.hand_out(parts["video"][0], rows)]
        return {name: part[0] if len(part) == 1 else np.concatenate(part) for name, part in parts.items()}

    def _dataset(self) -> grain.IterDataset:
        layout = self._chunks.layout
        per_batch = layout.chunks_per_batch
        numbers = grain.MapDataset.range(self._next_batch * per_batch, self._num_batches * per_batch)
        if not self._num_workers:
            options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=BATCHES_AHEAD * per_batch)
            return numbers.map(self._chunks).to_iter_dataset(options)
        rooms = shared_rooms(layout, math.prod(self._chunks.reader.spec.shape), self._num_workers)
        self._slots = Slots(rooms, self._next_batch)
        dataset = numbers.map(IntoSlots(self._chunks, self._slots))
        dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        pickled = grain.experimental.DatasetOptions(min_shm_size=2**40)  # what is left is small
        dataset = grain.experimental.WithOptionsIterDataset(dataset, pickled)
        options = grain.MultiprocessingOptions(
            self._num_workers, per_worker_buffer_size=chunks_ahead(layout, self._num_workers)
        )
        return dataset.mp_prefetch(options, worker_init_fn=start_worker)

    def state(self) -> dict[str, int]:
        """The position, for a checkpoint: the number of the next batch. Batches that are only prepared do not count."""
        return {"next_batch": self._next_batch}

    def restore(self, state: dict[str, int]) -> None:
        """Continues at the position that `state` returned, with any number of workers and hosts."""
        self.close()
        self._next_batch = int(state["next_batch"])

    def stats(self) -> dict[str, float]:
        """bad_videos (distinct records that could not be read), bad_fraction (of all reads), clips_seen."""
        return self._bad.stats()

    @property
    def source(self) -> Source:
        """The data that is read."""
        return self._chunks.reader.source

    @property
    def bad_records(self) -> list[dict]:
        """Entries of the records that could not be read: record, key, shard, record_in_shard, reason."""
        return list(self._bad.found.values())

    def keys(self, batch: dict[str, np.ndarray]) -> list[str]:
        """Keys of a batch's records, "" for damaged ones; each record is read again."""
        return [self._chunks.reader.key(int(record)) for record in batch["record"]]

    def close(self) -> None:
        """Ends the worker processes; asking for another batch would start new ones."""
        if self._slots is not None:
            self._slots.release()
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None
        if self._slots is not None:
            self._slots.close()
            self._slots = None
        self._open.close()


def open_loader(spec: LoaderSpec) -> Loader:
    """Opens a data set and returns the loader of a spec, at its first batch.

    Raises:
      DataSetError: the data set is missing or damaged.
      InvalidValue: the batch cannot be divided equally, or one pass over a split asks for random clips.
    """
    order, workers = spec.order, spec.workers
    if isinstance(order, OnePass) and spec.clips.is_random:
        raise InvalidValue(f"{spec.clips} are random clips; one pass over a split needs crop='center' or 'none'")
    reader = spec.clips.make_reader(open_source(spec.data_dir, spec.split), spec.cache_decoded, spec.decoding)
    layout = make_layout(spec.global_batch, workers.process_index, workers.process_count, math.prod(spec.clips.shape))
    num_records = len(reader.source)
    if isinstance(order, Shuffled):
        chunks, num_batches = ShuffledChunks(reader, layout, order), _ENDLESS // spec.global_batch
        folder, name = order.bad_records_dir, file_name(workers.process_index)
        bad = BadRecords(order.max_bad_fraction, folder and Path(folder, name), num_records)
    else:
        views = spec.clips.num_test_views
        chunks, num_batches = (
            EvalChunks(reader, layout, order, views),
            math.ceil(num_records * views / spec.global_batch),
        )
        bad = BadRecords(max_fraction=1.0, path=None, num_records=num_records)
    return Loader(chunks, num_batches=num_batches, num_workers=workers.num_workers, bad=bad)
