"""Reads and writes PyTorch's .pth files without PyTorch; reading never executes anything in the file.

A .pth consists of a pickle that names storages, and of the storages' bytes: entries of a zip (torch >= 1.6), or one
after the other in one file (older versions). Objects in the pickle that are neither plain data nor tensors become an
`Unknown` (weights/pickles.py), so that a checkpoint may hold anything beside its weights. Tensors are views of the
memory-mapped file, and their bytes are checked when they are first used.
"""

import math
import mmap
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from sigma_jax.runtime.errors import UserError, refusal
from sigma_jax.runtime.files import replacing
from sigma_jax.weights.pickles import Pickles, Unknown
from sigma_jax.weights.weights_file import UnreadableWeights

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE = 2**30  # bytes
MAX_REPEATED = 2**20  # numbers of a tensor beyond those of its storage (expanded tensors have stride 0)
MAX_INFLATED = (2**28, 20)  # limits of decompressed entries: bytes, or multiples of the size of the file
CHUNK = 2**24  # bytes checked at once

DAMAGE = (
    *(pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError),
    *(struct.error, zipfile.BadZipFile, zlib.error, NotImplementedError, OSError),
)


class Storages:
    """The storages of a file, which hold the bytes of its tensors.

    Args:
      path: the file.
      find: returns the bytes of a key, uint8 [size].
    """

    def __init__(self, path: str | Path, find: Callable[[str], np.ndarray]):
        self.path, self._find, self._found = path, find, {}
        self.types: dict[str, Any] = {}

    def persistent(self, key: Any) -> Any:
        """The storage for a pickle's persistent id ('storage', type, key, device, size)."""
        if not isinstance(key, tuple) or len(key) < 5 or not isinstance(key[1], Unknown) or not isinstance(key[2], str):
            raise pickle.UnpicklingError("an object outside of the pickle that is no storage")
        dtype = STORAGES.get(key[1].name.removeprefix("torch."))
        if dtype is None or (len(key) > 5 and key[5] is not None):  # a view of a storage, in the older format
            return key[1]
        self.types[key[2]] = dtype
        return _Storage(self, key[2], dtype)

    def bytes_of(self, key: str) -> np.ndarray:
        """The bytes of a storage, uint8 [size], which are checked once."""
        if key not in self._found:
            try:
                self._found[key] = self._find(key)
            except DAMAGE as error:
                raise _damaged(self.path, error) from error
        return self._found[key]


class _Storage(NamedTuple):
    file: Storages
    key: str
    dtype: Any


class Tensor:
    """A tensor of a file, which NumPy can convert to an array; its bytes are read then.

    Reading raises UnreadableWeights if the bytes are damaged.
    """

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides
        self.dtype, self.ndim = np.dtype(storage.dtype), len(shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        data = self.storage.file.bytes_of(self.storage.key)
        try:
            array = self._view(data[: data.size // self.dtype.itemsize * self.dtype.itemsize].view(self.dtype))
        except DAMAGE as error:
            raise _damaged(self.storage.file.path, error) from error
        return array if dtype is None and not copy else array.astype(dtype or self.dtype)

    def _view(self, flat: np.ndarray) -> np.ndarray:
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.shape, *self.strides)) < 0 or last >= flat.size:
            raise pickle.UnpicklingError(f"a tensor reaches to element {last} of a storage of {flat.size}")
        if math.prod(self.shape) > flat.size + MAX_REPEATED:
            raise pickle.UnpicklingError(f"a tensor of {math.prod(self.shape)} numbers in a storage of {flat.size}")
        strides = tuple(s * flat.itemsize for s in self.strides)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)


def _damaged(path: str | Path, error: Exception) -> UserError:
    detail = f"{type(error).__name__}: {str(error)[:200]}"
    damaged = UnreadableWeights(f"{path} is truncated, damaged or no .pth ({detail}): download or copy it again")
    return refusal(error, path) or damaged


def read_pth(path: str | Path) -> Any:
    """The object in a .pth: nested dicts and lists, with a `Tensor` for each tensor and `Unknown` for other objects.

    Namespaces of argparse become dicts.

    Raises:
      UnreadableWeights: truncated, or no .pth.
    """
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except DAMAGE as error:
        raise _damaged(path, error) from error


def _read_zip(path: str | Path) -> Any:
    data = map_file(path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.rsplit("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise zipfile.BadZipFile(f"expected one data.pkl, found {sorted(entries)[:4]}")
        inflated = sum(entry.file_size for entry in entries.values() if entry.compress_type != zipfile.ZIP_STORED)
        if entries[pickles[0]].file_size > MAX_PICKLE or inflated > max(MAX_INFLATED[0], MAX_INFLATED[1] * data.size):
            raise zipfile.BadZipFile(f"its entries claim {inflated} bytes when decompressed")
        root = pickles[0][: -len("data.pkl")]
        order = entries.get(f"{root}byteorder")
        if order is not None and (order.file_size > 16 or archive.read(order) != b"little"):
            raise zipfile.BadZipFile("written on a big-endian machine")
        program = archive.read(pickles[0])

    def find(key: str) -> np.ndarray:
        entry = entries[f"{root}data/{key}"]
        if entry.compress_type == zipfile.ZIP_STORED:  # as torch writes
            return _stored(data, entry)
        with zipfile.ZipFile(path) as archive:
            return np.frombuffer(archive.read(entry), np.uint8)

    storages = Storages(path, find)
    return Pickles(_tensor_of, storages.persistent).load(program)


def _stored(data: np.ndarray, entry: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of an uncompressed entry, a view of the mapped file, after checking their CRC."""
    header = bytes(data[entry.header_offset : entry.header_offset + 30])
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = entry.header_offset + 30 + name_length + extra_length
    found = data[start : start + entry.file_size]
    if found.size != entry.file_size or entry.compress_size != entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename} has {found.size} of {entry.file_size} bytes")
    checksum = 0
    for begin in range(0, found.size, CHUNK):
        checksum = zlib.crc32(found[begin : begin + CHUNK], checksum)
        drop_pages(found)
    if checksum != entry.CRC:
        raise zipfile.BadZipFile(f"the bytes of {entry.filename} are not those that were written (CRC)")
    return found


def _read_legacy(path: str | Path) -> Any:
    """Reads the format before torch 1.6: pickles of magic number, version, system, object and keys, then storages."""
    found: dict[str, np.ndarray] = {}
    storages = Storages(path, found.__getitem__)
    pickles = Pickles(_tensor_of, storages.persistent)
    with open(path, "rb") as file:
        if pickles.load(file) != LEGACY_MAGIC:
            raise pickle.UnpicklingError("it does not begin as torch.save begins")
        _version, _system, loaded, keys = (pickles.load(file) for _ in range(4))
        position = file.tell()
    data = map_file(path)
    for key in keys:
        count = struct.unpack("<q", bytes(data[position : position + 8]))[0]
        start, position = position + 8, position + 8 + count * np.dtype(storages.types[key]).itemsize
        if count < 0 or position > data.size:
            raise EOFError(f"storage {key} ends at byte {position} of {data.size}")
        found[key] = data[start:position]
    return loaded


def _tensor_of(name: str, arguments: tuple) -> Any:
    """The tensor that torch's function of this name would make; None if it makes something else."""
    if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) > 2 and isinstance(arguments[2], tuple):
        name, arguments = str(arguments[0]), arguments[2]
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return arguments[0] if arguments and isinstance(arguments[0], Tensor) else None
    if name not in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2") or len(arguments) < 4:
        return None
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, _Storage):
        return storage if isinstance(storage, Unknown) else None  # the name of its type is told
    if not all(type(n) is int and abs(n) < 2**62 for n in (offset, *shape, *strides)) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor whose shape and strides are no lists of numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def map_file(path: str | Path) -> np.ndarray:
    """The bytes of a memory-mapped file, uint8 [size], read-only.

    Raises:
      ValueError: the file is empty.
    """
    return np.memmap(path, np.uint8, "r")


def drop_pages(array: np.ndarray) -> None:
    """Evicts the pages of the mapped file of which `array` is a view from memory; for other arrays it does nothing.

    The array stays valid: its pages are read again when they are used.
    """
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def write_pth(
    path: str | Path, arrays: dict[str, np.ndarray], key: str = "model", texts: Mapping[str, str] | None = None
) -> None:
    """Writes {key: {name: float32 tensor}, **texts} for torch.load(weights_only=True).

    The pickle is written opcode by opcode, because Python's pickler cannot name classes that are not installed. The
    file gets its name when it is complete.
    """
    path = Path(path)
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickled(arrays, key, texts or {}))
        archive.writestr("archive/byteorder", "little")
        for i, array in enumerate(arrays.values()):
            with archive.open(f"archive/data/{i}", "w", force_zip64=array.nbytes >= 2**31) as entry:
                entry.write(np.ascontiguousarray(array, "<f4").view(np.uint8).reshape(-1).data)
        archive.writestr("archive/version", "3\n")


def _pickled(arrays: dict[str, np.ndarray], key: str, texts: Mapping[str, str]) -> bytes:
    parts = [pickle.PROTO + b"\x02", pickle.EMPTY_DICT, _text(key), _ordered_dict(), pickle.MARK]
    for i, (name, array) in enumerate(arrays.items()):
        parts += [_text(name), _tensor(str(i), array.shape)]
    parts += [pickle.SETITEMS, pickle.SETITEM]
    for name, text in texts.items():
        parts += [_text(name), _text(text), pickle.SETITEM]
    return b"".join([*parts, pickle.STOP])


def _tensor(storage: str, shape: tuple[int, ...]) -> bytes:
    """Opcodes of _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())."""
    strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    persistent = [_text("storage"), _global("torch", "FloatStorage"), _text(storage), _text("cpu")]
    parts = [
        _global("torch._utils", "_rebuild_tensor_v2"),
        pickle.MARK,
        *(pickle.MARK, *persistent, _integer(int(np.prod(shape))), pickle.TUPLE, pickle.BINPERSID),
        _integer(0),
        *(pickle.MARK, *map(_integer, shape), pickle.TUPLE),
        *(pickle.MARK, *map(_integer, strides), pickle.TUPLE),
        pickle.NEWFALSE,
        _ordered_dict(),
        pickle.TUPLE,
        pickle.REDUCE,
    ]
    return b"".join(parts)


def _ordered_dict() -> bytes:
    return _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    """BININT holds 31 bits; a storage of more numbers needs LONG1."""
    if value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)
