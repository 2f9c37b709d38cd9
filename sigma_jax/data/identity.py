"""The identity of a data set, found without reading all of it: a run stores it and resumes on the same data only.

A copy in another place or with other file names has the same identity. Other videos, more of them, another order, other
shards or another label map give another one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sigma_jax.data.records import BadRecord, RecordSource
from sigma_jax.data.schema import Record
from sigma_jax.data.source import Source

SAMPLED = 16  # records whose content is hashed
CHECKED = 2048  # records whose stored checksum is hashed: four bytes of each are read
_NAMES = 1000  # of a label map with more classes only the hash is stored


def identify(source: Source) -> dict[str, Any]:
    """Identity of a split, as JSON: counts, hashes of where records lie and of some of them, the class names."""
    files = [path for path in source.shards if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    offsets = [source.offsets.tobytes()] if isinstance(source, RecordSource) else []
    chosen = _spread(len(source), SAMPLED)
    names = list(source.classes)
    found = {
        "split": source.split,
        "records": len(source),
        "shards": len(source.shards),
        "bytes": sum(sizes),
        "layout": _hash([json.dumps(sizes).encode(), *offsets]),
        "content": _hash(part for index in chosen for part in _parts(source, index)),
        "num_classes": len(names),
        "label_map": _hash(name.encode("utf-8", "surrogateescape") for name in names),
    }
    if isinstance(source, RecordSource):
        found["checksums"] = _hash(map(source.read_checksum, _spread(len(source), CHECKED)))
    return found | ({"classes": names} if len(names) <= _NAMES else {})


def _spread(size: int, count: int) -> list[int]:
    """Up to `count` of the numbers below `size`, evenly spread, the first and the last among them."""
    return sorted({number * (size - 1) // (count - 1) for number in range(count)})


def _parts(source: Source, index: int) -> Iterable[bytes]:
    """The content of a record as bytes to be hashed."""
    try:
        record: Record = source.read_whole(index)
    except BadRecord:
        return [b"damaged"]
    told = json.dumps([record.key, record.label, record.num_frames, record.annotation]).encode()
    return [told, *([bytes(frame) for frame in record.frames] if record.frames else [bytes(record.video)])]


def _hash(parts: Iterable[bytes]) -> str:
    """16 hexadecimal digits that depend on the parts and on where each of them ends."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences that say how data differ, given two identities; [] for the same data."""
    counts = [
        f"{name}: {before[name]} -> {now[name]}"
        for name in ("split", "records", "shards", "bytes")
        if before.get(name) != now[name]
    ]
    if not counts:
        if before.get("layout") != now["layout"]:
            counts.append("as many records and bytes, but other records or another order")
        elif any(before.get(name, now.get(name)) != now.get(name) for name in ("content", "checksums")):
            counts.append("records of the same sizes with other content")
    return counts + _class_differences(before, now)


def _class_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if before.get("label_map") == now["label_map"]:
        return []
    old, new = before.get("classes", []), now.get("classes", [])
    if sorted(old) == sorted(new):
        moved = [f"{i} was {a!r} and is {b!r}" for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        return [f"label map: the classes stand in another order ({'; '.join(moved[:3]) or 'too many to list'})"]
    gone, added = ([repr(name) for name in side if name not in other] for side, other in ((old, new), (new, old)))
    parts = [f"{what} {', '.join(names[:3])}" for what, names in (("without", gone), ("new", added)) if names]
    return [f"label map: {before.get('num_classes')} -> {now['num_classes']} classes ({'; '.join(parts)})"]
