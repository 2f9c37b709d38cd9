"""Reads PyTorch's .pth files without PyTorch and without running what is inside.

A .pth is a pickle that names storages, and the storages' bytes: entries of a zip (torch >= 1.6), or one after the other
in one file (older). Pickles can call any function; here only the constructors of tensors and of plain containers exist,
everything else is refused by name. Arrays are views of the memory-mapped file.
"""

import argparse
import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sigma_jax.weights.mapped_file import map_file
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
PICKLE_ERRORS = (pickle.UnpicklingError, EOFError, IndexError, KeyError, ValueError, TypeError, AttributeError)


class _Tensor:
    """A tensor that waits for the bytes of its storage."""

    def __init__(self, storage: tuple, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        (self.key, self.dtype), self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, storages: Callable[[str], np.ndarray]) -> np.ndarray:
        flat = storages(self.key).view(self.dtype)
        last = self.offset + sum(max(n - 1, 0) * s for n, s in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        if self.offset < 0 or min(self.strides, default=0) < 0 or last >= flat.size:
            raise pickle.UnpicklingError(f"a tensor reaches to element {last} of a storage of {flat.size}")
        strides = tuple(s * flat.itemsize for s in self.strides)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)


class _Inert:
    """Stands for objects without meaning for weights (torch.device, a dtype, numpy scalars): keeps nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


def _rebuild_tensor(storage, offset, shape, strides, *rest) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data, *rest) -> _Tensor:
    return data


ALLOWED = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("torch", "device"): _Inert,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("argparse", "Namespace"): argparse.Namespace,
    ("pathlib", "PosixPath"): _Inert,
    ("numpy", "dtype"): _Inert,
    ("numpy.core.multiarray", "scalar"): _Inert,
    ("numpy._core.multiarray", "scalar"): _Inert,
    ("_codecs", "encode"): _Inert,
    **{("torch", name): name for name in STORAGES},
    **{("torch", name): _Inert for name in ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8")},
}


class _Unpickler(pickle.Unpickler):
    """Knows ALLOWED and storages, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        module = "collections" if (module, name) == ("__builtin__", "OrderedDict") else module
        if (module, name) not in ALLOWED:
            raise Forbidden(f"{module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, key: tuple) -> tuple[str, type]:
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or key[1] not in STORAGES:
            raise pickle.UnpicklingError(f"unknown storage {str(key)[:80]}")
        return str(key[2]), STORAGES[key[1]]


class Forbidden(pickle.UnpicklingError):
    """The pickle asks for something that is no tensor; the message is its name."""


def read_pth(path: str | Path) -> Any:
    """The object in a .pth: nested dicts and lists whose tensors are numpy arrays (bfloat16 as ml_dtypes').

    Raises:
      UnreadableWeights: truncated, no .pth, or a pickle that names anything but tensors and plain containers.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return _read_legacy(path)
    except Forbidden as error:
        raise UnreadableWeights(
            f"{path} is refused: its pickle asks for {error}, which is no tensor and could run code. If you trust the "
            "file, save its state dict alone with torch.save(model.state_dict(), ...) and convert that"
        ) from error
    except (*PICKLE_ERRORS, struct.error, zipfile.BadZipFile) as error:
        detail = f"{type(error).__name__}: {str(error)[:200]}"
        raise UnreadableWeights(
            f"{path} is truncated, damaged or no .pth ({detail}): download or copy it again"
        ) from error


def _read_zip(path: str | Path) -> Any:
    data = map_file(path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.rsplit("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise zipfile.BadZipFile(f"expected one data.pkl, found {sorted(entries)[:4]}")
        root = pickles[0][: -len("data.pkl")]
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise zipfile.BadZipFile("written on a big-endian machine")
        opened: dict[str, np.ndarray] = {}

        def storage(key: str) -> np.ndarray:
            if key not in opened:
                opened[key] = _entry(archive, entries[f"{root}data/{key}"], data)
            return opened[key]

        return _with_arrays(_Unpickler(io.BytesIO(archive.read(pickles[0]))).load(), storage)


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: np.ndarray) -> np.ndarray:
    """The bytes of a zip entry: a view of the mapped file where it is stored as it is (torch always does)."""
    if entry.compress_type != zipfile.ZIP_STORED:
        return np.frombuffer(archive.read(entry), np.uint8)
    header = bytes(data[entry.header_offset : entry.header_offset + 30])
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = entry.header_offset + 30 + name_length + extra_length
    return data[start : start + entry.file_size]


def _read_legacy(path: str | Path) -> Any:
    """Before torch 1.6: pickles of magic, version, system, object, keys; then per storage its length and bytes."""
    data = map_file(path)
    with open(path, "rb") as file:
        if _Unpickler(file).load() != LEGACY_MAGIC:
            raise pickle.UnpicklingError("it does not begin as torch.save begins")
        _Unpickler(file).load()
        _Unpickler(file).load()
        unpickler = _LegacyUnpickler(file)
        loaded = unpickler.load()
        keys = [str(key) for key in _Unpickler(file).load()]
        position, found = file.tell(), {}
    for key in keys:
        itemsize = np.dtype(unpickler.types[key]).itemsize
        count = struct.unpack("<q", bytes(data[position : position + 8]))[0]
        start, position = position + 8, position + 8 + count * itemsize
        if count < 0 or position > data.size:
            raise EOFError(f"storage {key} ends at byte {position} of {data.size}")
        found[key] = data[start:position]
    return _with_arrays(loaded, found.__getitem__)


class _LegacyUnpickler(_Unpickler):
    """Remembers the types of storages: their bytes come later and do not say."""

    def __init__(self, file):
        super().__init__(file)
        self.types: dict[str, type] = {}

    def persistent_load(self, key: tuple) -> tuple[str, type]:
        name, dtype = super().persistent_load(key)
        if len(key) > 5 and key[5] is not None:
            raise pickle.UnpicklingError("views of storages are not supported: save it again with torch >= 1.6")
        self.types[name] = dtype
        return name, dtype


def _with_arrays(value: Any, storages: Callable[[str], np.ndarray]) -> Any:
    if isinstance(value, _Tensor):
        return value.array(storages)
    if isinstance(value, dict):
        return {key: _with_arrays(inner, storages) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_arrays(inner, storages) for inner in value]
    return value
