"""One .safetensors file <-> arrays, without a second copy in memory; the library checks what is read.

The format: eight bytes with the header's length, the header as JSON (name -> type, shape, first and last byte), bytes.
"""

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np

from sigma_jax.weights.mapped_file import map_file
from sigma_jax.weights.weights_file import UnreadableWeights

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Name -> view of the mapped file.

    Raises:
      UnreadableWeights: truncated, damaged, or of a type that numpy does not have.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass  # header, names, and that the entries cover the bytes without gaps
        data = map_file(path)
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        return {name: _view(data[start:], name, entry) for name, entry in header.items()}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UnreadableWeights(f"{path} is truncated, damaged or no safetensors ({error}): copy it again") from error


def _view(data: np.ndarray, name: str, entry: dict) -> np.ndarray:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{name} is stored as {entry['dtype']}, expected one of {', '.join(DTYPES)}")
    begin, end = entry["data_offsets"]
    return data[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])


def write_file(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes float32 arrays one after the other; the file appears under its name only when complete."""
    header, position = {"__metadata__": metadata}, 0
    for name, array in arrays.items():
        offsets = [position, position + 4 * array.size]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, "<f4").view(np.uint8).reshape(-1).data)
    os.replace(partial, path)
