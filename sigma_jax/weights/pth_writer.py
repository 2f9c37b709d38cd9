"""Writes a .pth that torch.load(weights_only=True) reads, without PyTorch.

The format is a zip of `data.pkl` (a protocol-2 pickle of {"model": OrderedDict of tensors}) and the bytes of one
storage per tensor; the pickle is written opcode by opcode, since Python's pickler cannot name classes that are not
installed.
"""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np


def write_pth(path: str | Path, arrays: dict[str, np.ndarray], key: str = "model") -> None:
    """Writes {key: {name: tensor}} with float32 tensors; the file appears under its name only when complete."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickled(arrays, key))
        archive.writestr("archive/byteorder", "little")
        for i, array in enumerate(arrays.values()):
            with archive.open(f"archive/data/{i}", "w", force_zip64=array.nbytes >= 2**31) as entry:
                entry.write(np.ascontiguousarray(array, "<f4").view(np.uint8).reshape(-1).data)
        archive.writestr("archive/version", "3\n")
    os.replace(partial, path)


def _pickled(arrays: dict[str, np.ndarray], key: str) -> bytes:
    parts = [pickle.PROTO + b"\x02", pickle.EMPTY_DICT, _text(key), _ordered_dict(), pickle.MARK]
    for i, (name, array) in enumerate(arrays.items()):
        parts += [_text(name), _tensor(str(i), array.shape)]
    return b"".join([*parts, pickle.SETITEMS, pickle.SETITEM, pickle.STOP])


def _tensor(storage: str, shape: tuple[int, ...]) -> bytes:
    """_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())."""
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
