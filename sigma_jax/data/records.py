"""TFRecord shards: framing with both checksums, index of offsets, random access. schema.py defines a record's content.

Our shards are `name-split-00000-of-00064.tfrecord`; other writers' `name-split.tfrecord-00000-of-00064` and
`split-00000-of-00064` are found too. Beside them lies one `name-split.index.npz` with the offset of every record. A
record is framed as u64 length, masked CRC of it, payload, masked CRC of it (CRC-32C); both are checked on every read.
Of `jpeg` records of ours only the head is read and later the frames asked for, each checked against its own CRC.
"""

import logging
import os
import re
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np

from sigma_jax.data.schema import Head, Record, decode_record, encode_record, head_size, read_head
from sigma_jax.runtime.errors import UserError, refusal
from sigma_jax.runtime.files import replacing

_SHARD = re.compile(
    r"^(?:(?P<name>.+)[-_.])?(?P<split>(?!rgb[-.]|tfrecords?-)[^-_.]+)(?:\.rgb)?(?:\.tfrecords?)?"
    r"-(?P<shard>\d{5})-of-(?P<count>\d{5})(?:\.tfrecords?)?$"
)
_OURS = re.compile(r"^(?P<name>.+)-(?P<split>[^-]+)-(?P<shard>\d{5})-of-(?P<count>\d{5})\.tfrecord$")
_HEAD_BYTES = 2**13  # first read of a `jpeg` record: the head of 900 frames
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_FRAME = _HEADER.size + _FOOTER.size
_PREPARE = "python -m sigma_jax.tools.prepare --videos=FOLDER --out={}"


class DataSetError(UserError, ValueError):
    """The shards of a data set are missing, incomplete or do not fit together."""


class BadRecord(ValueError):
    """One record cannot be read; says which shard, which record of it and why."""

    def __init__(self, shard: str, record: int, reason: str):
        super().__init__(shard, record, reason)  # args, so that it survives pickling between processes
        self.shard, self.record, self.reason = shard, record, reason

    def __str__(self) -> str:
        return f"{self.shard}, record {self.record}: {self.reason}"


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class ShardWriter:
    """Context manager that writes one shard, which gets its name when the block ends without an error.

    Until then, and where the process is killed, its name ends in `.partial`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        partial_path(self.path).unlink(missing_ok=True)
        self._size = 0

    def write(self, record: Record) -> None:
        """Appends one record; it has been passed to the operating system when this returns."""
        self.write_payload(encode_record(record))

    def write_payload(self, payload: bytes) -> None:
        """Appends a record that is encoded already."""
        self._size = append_payload(self.path, self._size, payload)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, error_type, *_) -> None:
        if error_type is None:
            finish_shard(self.path)
        else:
            partial_path(self.path).unlink(missing_ok=True)


def append_payload(shard: Path, offset: int, payload: bytes) -> int:
    """Writes an encoded record at byte `offset`, the end of an unfinished shard; returns the shard's new size.

    Bytes behind `offset`, which a killed process may have left, are removed.
    """
    length = struct.pack("<Q", len(payload))
    data = length + _FOOTER.pack(_masked_crc(length)) + payload + _FOOTER.pack(_masked_crc(payload))
    with open(os.open(partial_path(shard), os.O_WRONLY | os.O_CREAT, 0o666), "wb", buffering=0) as file:
        file.truncate(offset)
        file.seek(offset)
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
    return offset + len(data)


def finish_shard(shard: Path) -> None:
    """Gives an unfinished shard its name; a shard without records is an empty file."""
    with open(partial_path(shard), "ab") as file:
        os.fsync(file.fileno())
    os.replace(partial_path(shard), shard)


def partial_path(shard: Path) -> Path:
    """The path under which a shard is written until it is complete."""
    return shard.with_name(f"{shard.name}.partial")


def shard_name(name: str, split: str, shard: int, count: int) -> str:
    return f"{name}-{split}-{shard:05d}-of-{count:05d}.tfrecord"


def _match(file_name: str) -> re.Match | None:
    """Parses a shard's file name into name, split, shard and count; only in our own names a split may contain `_`."""
    return _OURS.match(file_name) or _SHARD.match(file_name)


def has_shards(data_dir: str | Path) -> bool:
    """Whether a folder holds shards of any split."""
    return os.path.isdir(data_dir) and any(map(_match, os.listdir(data_dir)))


def find_splits(data_dir: str | Path) -> list[str]:
    """Names of all splits; raises DataSetError where there is no folder or no shard."""
    data_dir = Path(data_dir)
    splits = sorted({m["split"] for m in map(_match, os.listdir(data_dir)) if m}) if data_dir.is_dir() else []
    if not splits:
        find_shards(data_dir, "train")  # raises the error that says what is missing
    return splits


def find_shards(data_dir: str | Path, split: str) -> list[Path]:
    """All shards of a split, in order.

    Raises:
      DataSetError: no folder, no shards of that split, two data sets or shard counts mixed, or shards missing.
    """
    data_dir, again = Path(data_dir), f"Make the shards with: {_PREPARE.format(data_dir)} --split={split}"
    if not data_dir.is_dir():
        raise DataSetError(f"data_dir {data_dir} does not exist or is not a folder. {again}")
    matches = [m for m in map(_match, sorted(os.listdir(data_dir))) if m]
    if not matches:
        raise DataSetError(
            f"{data_dir} holds no shards (name-split-00000-of-00001.tfrecord) and no images ({split}/CLASS/*). {again}"
        )
    of_split = [m for m in matches if m["split"] == split]
    if not of_split:
        raise DataSetError(f"{data_dir} has no split {split!r}, only {sorted({m['split'] for m in matches})}. {again}")
    sets = sorted({f"{m['name'] or '*'}-{split}-*-of-{m['count']}" for m in of_split})
    if len(sets) > 1:
        raise DataSetError(f"{data_dir} mixes shard sets {sets}: keep one of them. {again}")
    count, have = int(of_split[0]["count"]), {int(m["shard"]) for m in of_split}
    missing = sorted(set(range(count)) - have)
    if missing or len(have) != count:
        raise DataSetError(
            f"{data_dir}: found {len(have)} of {count} shards of {sets[0]}, missing {missing[:9]}. "
            f"Copy those or start again. {again}"
        )
    return [data_dir / m.string for m in of_split]


def scan_offsets(path: Path) -> np.ndarray:
    """Offsets int64 [n] of the records of one shard; reads 12 bytes a record.

    Raises:
      BadRecord: a length fails its checksum or leads beyond the end of the file.
    """
    size, offset, offsets = path.stat().st_size, 0, []
    with open(path, "rb", buffering=0) as file:
        while offset < size:
            header = os.pread(file.fileno(), _HEADER.size, offset)
            offsets.append(offset)
            if len(header) < _HEADER.size:
                raise BadRecord(path.name, len(offsets) - 1, "truncated: the file ends within a record header")
            length, crc = _HEADER.unpack(header)
            if _masked_crc(header[:8]) != crc:
                raise BadRecord(path.name, len(offsets) - 1, "corrupt length (checksum differs)")
            offset += _FRAME + length
    if offset > size:
        raise BadRecord(path.name, len(offsets) - 1, f"truncated: needs {offset} bytes, the file has {size}")
    return np.array(offsets, np.int64)


def build_index(data_dir: str | Path, split: str) -> Path:
    """Scans the shards of a split and writes `name-split.index.npz` (sizes [S], counts [S], offsets [n])."""
    shards = find_shards(data_dir, split)
    path = _index_of(shards[0])
    _save_index(path, _make_index(shards))
    return path


def _make_index(shards: list[Path]) -> dict[str, np.ndarray]:
    try:
        offsets = [scan_offsets(path) for path in shards]
    except BadRecord as error:
        raise DataSetError(
            f"cannot index {shards[0].parent}: {error}. Copy the shard again or prepare it again."
        ) from error
    return {
        "sizes": np.array([path.stat().st_size for path in shards], np.int64),
        "counts": np.array([len(o) for o in offsets], np.int64),
        "offsets": np.concatenate(offsets),
    }


def _save_index(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:  # several hosts may build it at the same time
        np.savez(file, **arrays)


def index_path(data_dir: Path, name: str, split: str) -> Path:
    return data_dir / f"{name}-{split}.index.npz"


def _index_of(first_shard: Path) -> Path:
    match = _match(first_shard.name)
    return index_path(first_shard.parent, match["name"] or "records", match["split"])


def _load_index(shards: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    path = _index_of(shards[0])
    if path.exists():
        sizes, counts, offsets = _read_index(path)
    else:
        logging.info("building the index %s", path)
        arrays = _make_index(shards)
        try:
            _save_index(path, arrays)
        except OSError as error:  # the folder may be read-only, as where several users share a data set
            logging.warning("the index cannot be saved and will be built again at every start: %s", error)
        sizes, counts, offsets = arrays.values()
    advice = f"If the shards were replaced on purpose, delete {path}; otherwise copy or prepare them again."
    if len(sizes) != len(shards):
        raise DataSetError(f"{path} describes {len(sizes)} shards, found {len(shards)}. {advice}")
    for shard, size in zip(shards, sizes, strict=True):
        if shard.stat().st_size != size:
            raise DataSetError(f"{shard} has {shard.stat().st_size} bytes, its index says {size}. {advice}")
    return sizes, counts, offsets


def _read_index(path: Path) -> list[np.ndarray]:
    """sizes, counts and offsets of an index; raises DataSetError if they do not fit together."""
    try:
        with np.load(path) as arrays:
            sizes, counts, offsets = (arrays[name] for name in ("sizes", "counts", "offsets"))
    except Exception as error:  # NumPy raises errors of many kinds for damaged files
        damaged = DataSetError(f"the index {path} is damaged ({error!r:.200}): delete it to have it built again")
        raise refusal(error, path) or damaged from error
    if not _is_consistent(sizes, counts, offsets):
        raise DataSetError(
            f"the index {path} is damaged (its numbers contradict each other): delete it to have it built again"
        )
    return [sizes, counts, offsets]


def _is_consistent(sizes: np.ndarray, counts: np.ndarray, offsets: np.ndarray) -> bool:
    """Whether the records of every shard begin at 0, follow each other, and end at the end of the shard."""
    arrays = (sizes, counts, offsets)
    if not all(isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype == np.int64 for array in arrays):
        return False
    if len(sizes) != len(counts) or (counts < 0).any() or counts.sum() != len(offsets):
        return False
    filled = counts > 0
    last = np.cumsum(counts)[filled] - 1
    ends = np.append(offsets[1:], 0)[: len(offsets)]
    ends[last] = sizes[filled]
    starts_at_0 = (offsets[last + 1 - counts[filled]] == 0).all()
    return bool(starts_at_0 and (ends - offsets >= _FRAME).all() and (sizes[~filled] == 0).all())


class _StoredFrames(Sequence):
    """The frames of one record; each is read from the shard on access."""

    def __init__(self, source: "RecordSource", shard: int, record: int, payload_start: int, head: Head):
        self._source, self._place, self._payload_start, self._head = source, (shard, record), payload_start, head

    def __len__(self) -> int:
        return len(self._head.sizes)

    def __getitem__(self, index: int) -> bytes:
        start = self._payload_start + int(self._head.starts[index])
        return self._source.read_frame(*self._place, start, int(self._head.sizes[index]), int(self._head.crcs[index]))


class RecordSource:
    """Random access to all records of a split; a source.Source."""

    stills = False

    def __init__(self, data_dir: str | Path, split: str, decode: Callable[[bytes], Record] = decode_record):
        """Opens the shards and their index, which is built if there is none.

        Args:
          data_dir: folder of the shards.
          split: name of the split.
          decode: turns a payload into a Record; raises ValueError where it cannot.

        Raises:
          DataSetError: shards are missing or contradict their index (see find_shards).
        """
        self.data_dir, self.split, self.classes = Path(data_dir), split, ()
        self.shards = find_shards(data_dir, split)
        self._sizes, counts, self._offsets = _load_index(self.shards)
        self.lengths = counts.tolist()
        self._ends = np.cumsum(counts)  # number of the first record after each shard
        self._files, self._lock, self._decode, self._has_heads = {}, threading.Lock(), decode, None

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Record:
        """Record number `index`; raises BadRecord where a checksum or the schema fails, IndexError outside."""
        shard, number = self.locate(index)
        name = self.shards[shard].name
        try:
            if self._has_heads is not False:  # None, for unknown, before the first record
                head = self._read_head(index, shard, number)
                if head is not None:
                    return head
            record = self._decode(self._read(index, shard, number))
            self._has_heads = bool(record.frames)
            return record
        except ValueError as error:
            raise error if isinstance(error, BadRecord) else BadRecord(name, number, str(error)) from error

    def read_whole(self, index: int) -> Record:
        """Record number `index`, all of it in memory, with both checksums checked; raises BadRecord."""
        shard, number = self.locate(index)
        payload = self._read(index, shard, number)
        try:
            return self._decode(payload)
        except ValueError as error:
            raise BadRecord(self.shards[shard].name, number, str(error)) from error

    def describe(self, index: int) -> tuple[str, int]:
        """(name of the shard, number within it) of a record."""
        shard, number = self.locate(index)
        return self.shards[shard].name, number

    @property
    def offsets(self) -> np.ndarray:
        """int64 [n], first byte of every record in its shard."""
        return self._offsets

    def locate_shard(self, shard: int) -> tuple[int, int]:
        """(number of the shard's first record, number of the first record after it)."""
        return int(self._ends[shard - 1] if shard else 0), int(self._ends[shard])

    def locate(self, index: int) -> tuple[int, int]:
        """(shard number, record number within it) of a record."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, int(index - (self._ends[shard - 1] if shard else 0))

    def _extent(self, index: int, shard: int) -> tuple[int, int]:
        """First byte of a record with its framing, and the first byte after it."""
        end = self._sizes[shard] if index + 1 == self._ends[shard] else self._offsets[index + 1]
        return int(self._offsets[index]), int(end)

    def read_checksum(self, index: int) -> bytes:
        """The checksum of a record's content, as it is stored behind it; four bytes are read."""
        shard, _ = self.locate(index)
        return os.pread(self._file(shard), 4, self._extent(index, shard)[1] - 4)

    def _read_head(self, index: int, shard: int, record: int) -> Record | None:
        """A `jpeg` record whose frames are read on access; None where it is another kind of record, or damaged."""
        start, end = self._extent(index, shard)
        size = end - start - _FRAME
        data = os.pread(self._file(shard), min(_HEAD_BYTES, size) + _HEADER.size, start)
        if len(data) < _HEADER.size or _HEADER.unpack_from(data) != (size, _masked_crc(data[:8])):
            return None
        need = head_size(data[_HEADER.size :])
        if not 0 < need <= size:
            return None
        if need > len(data) - _HEADER.size:
            data = os.pread(self._file(shard), need + _HEADER.size, start)
        head = read_head(data[_HEADER.size :], size)
        if head is None:
            return None
        return replace(head.record, frames=_StoredFrames(self, shard, record, start + _HEADER.size, head))

    def read_frame(self, shard: int, record: int, start: int, size: int, crc: int) -> bytes:
        """Reads `size` bytes of a shard; raises BadRecord unless they have this CRC-32C."""
        data = os.pread(self._file(shard), size, start)
        if len(data) != size or google_crc32c.value(data) != crc:
            raise BadRecord(self.shards[shard].name, record, f"corrupt frame at byte {start} (checksum differs)")
        return data

    def _read(self, index: int, shard: int, record: int) -> bytes:
        name = self.shards[shard].name
        start, end = self._extent(index, shard)
        data = os.pread(self._file(shard), end - start, start)
        if len(data) != end - start or len(data) < _FRAME:
            raise BadRecord(name, record, f"truncated: expected {end - start} bytes at {start}, got {len(data)}")
        length, crc = _HEADER.unpack_from(data)
        if _masked_crc(data[:8]) != crc or length != len(data) - _FRAME:
            raise BadRecord(name, record, f"corrupt length {length}, the index says {len(data) - _FRAME}")
        payload = data[_HEADER.size : -_FOOTER.size]
        if _masked_crc(payload) != _FOOTER.unpack_from(data, len(data) - _FOOTER.size)[0]:
            raise BadRecord(name, record, "corrupt payload (checksum differs)")
        return payload

    def _file(self, shard: int) -> int:
        with self._lock:
            if shard not in self._files:
                self._files[shard] = os.open(self.shards[shard], os.O_RDONLY)
            return self._files[shard]

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files = {}

    def __del__(self, close: Callable[[int], None] = os.close):  # bound here: at exit the module `os` may be gone
        for file in self.__dict__.get("_files", {}).values():
            close(file)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in ("_files", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _files={}, _lock=threading.Lock())
