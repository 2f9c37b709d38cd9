"""The content of one record, and its form as a `tf.train.Example`; `SequenceExample` of other writers are read as well.

Ours: one feature per field of Record. With the payload `video` the feature `video` holds the bytes of the file. With
the payload `jpeg` the feature `frames` holds one JPEG a frame, and the record consists of three concatenated Examples,
which any protobuf parser reads as one: first the small features with `frame_table` (little-endian u32 pairs: bytes and
CRC-32C of each frame), then `head_crc` (CRC-32C of the first Example), last `frames`. So a reader can fetch and check a
few frames of a long video without reading the rest (read_head).

tensorflow-datasets, written as tfrecord: the first feature that is a sequence of JPEG or PNG pictures, and `label`.
DMVR / Scenic: context `clip/label/index`, `clip/label/text`, `clip/media_id` (or `clip/key`), list `image/encoded`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from sigma_jax.data.examples import Example, SequenceExample

_TEXT = ("utf-8", "surrogateescape")
_INTEGERS = ("label", "num_frames", "height", "width")
_DMVR_KEYS = ("clip/media_id", "clip/key", "clip/video_id")


@dataclass(frozen=True)
class Record:
    """One video as stored, `video` or `frames`, and what `prepare` found when it decoded it."""

    video: bytes = b""  # a compressed video file
    key: str = ""  # path relative to the folder it came from
    label: int = -1  # -1: no class
    label_name: str = ""
    num_frames: int = 0
    height: int = 0  # after rotation, pixels
    width: int = 0
    fps: float = 0.0
    frames: Sequence[bytes] = ()  # one JPEG or PNG a frame
    annotation: str = ""  # cycles or several labels (annotations.py); "" is not written


@dataclass(frozen=True)
class Head:
    """The small part of a `jpeg` record: everything but the frames, and their positions."""

    record: Record
    starts: np.ndarray  # int64 [n], byte of the payload where each frame begins
    sizes: np.ndarray  # int64 [n]
    crcs: np.ndarray  # uint32 [n]


def encode_record(record: Record) -> bytes:
    """Serialises a record as tf.train.Example, in the form that the module's docstring describes."""
    example = Example()
    features = example.features.feature
    for name in ("key", "label_name"):
        features[name].bytes_list.value.append(getattr(record, name).encode(*_TEXT))
    for name in _INTEGERS:
        features[name].int64_list.value.append(getattr(record, name))
    features["fps"].float_list.value.append(record.fps)
    if record.annotation:
        features["annotation"].bytes_list.value.append(record.annotation.encode(*_TEXT))
    if not record.frames:
        features["video"].bytes_list.value.append(record.video)
        return example.SerializeToString(deterministic=True)
    table = [(len(frame), google_crc32c.value(frame)) for frame in record.frames]
    features["frame_table"].bytes_list.value.append(np.array(table, "<u4").tobytes())
    head, frames = example.SerializeToString(deterministic=True), Example()
    frames.features.feature["frames"].bytes_list.value.extend(record.frames)
    return head + _head_crc(head) + frames.SerializeToString(deterministic=True)


def decode_record(payload: bytes) -> Record:
    """Parses a record of ours, of DMVR or of TFDS; of our features only the payload and `key` are required.

    Raises:
      ValueError: not an Example, a feature is missing or of another kind.
    """
    context, lists = _parse(payload)
    if lists:
        return _from_dmvr(context, lists)
    if not {"video", "frames"} & context.keys() and (name := _find_pictures(context)):
        frames = tuple(context[name].bytes_list.value)
        label = _one(context, "label", "int64_list", -1)
        return Record(label=label, num_frames=len(frames), frames=frames)
    frames = tuple(context["frames"].bytes_list.value) if "frames" in context else ()
    return _from_features(context, frames, need_video=not frames)


def _parse(payload: bytes) -> tuple[dict, dict]:
    """(features, feature lists); the bytes of an Example are those of a SequenceExample without lists."""
    try:
        example = SequenceExample.FromString(payload)
    except DecodeError as error:
        raise ValueError("not a tf.train.Example") from error
    return dict(example.context.feature), dict(example.feature_lists.feature_list)


def parse_features(payload: bytes) -> dict:
    """Features of a serialised tf.train.Example by name; raises ValueError if it is something else."""
    return _parse(payload)[0]


def _find_pictures(features: dict) -> str:
    """Name of the first feature (by name) that holds JPEGs or PNGs only; empty where there is none."""
    for name in sorted(features):
        values = features[name].bytes_list.value
        if len(values) and all(value.startswith((b"\xff\xd8\xff", b"\x89PNG")) for value in values):
            return name
    return ""


def _one(features: dict, name: str, kind: str, default=None):
    """The single value of a feature; the default only where the feature is absent."""
    values = getattr(features[name], kind).value if name in features else ()
    if len(values) == 1:
        return values[0]
    if default is None or name in features:
        raise ValueError(f"expected one value of {kind} in feature {name!r}, found features {sorted(features)}")
    return default


def _from_features(features: dict, frames: Sequence[bytes], need_video: bool) -> Record:
    record = Record(
        video=_one(features, "video", "bytes_list") if need_video else b"",
        key=_one(features, "key", "bytes_list").decode(*_TEXT),
        label_name=_one(features, "label_name", "bytes_list", b"").decode(*_TEXT),
        annotation=_one(features, "annotation", "bytes_list", b"").decode(*_TEXT),
        fps=_one(features, "fps", "float_list", 0.0),
        frames=frames,
        **{name: _one(features, name, "int64_list", -1 if name == "label" else 0) for name in _INTEGERS},
    )
    if frames and record.num_frames != len(frames):
        raise ValueError(f"num_frames is {record.num_frames}, but there are {len(frames)} frames")
    if record.num_frames < 0:
        raise ValueError(f"num_frames is {record.num_frames}")
    return record


def _from_dmvr(context: dict, lists: dict) -> Record:
    if "image/encoded" not in lists:
        raise ValueError(f"expected a feature list 'image/encoded', found {sorted(lists)}")
    frames = tuple(_one({"image": step}, "image", "bytes_list") for step in lists["image/encoded"].feature)
    if not frames:
        raise ValueError("'image/encoded' holds no frames")
    key = next((_one(context, name, "bytes_list") for name in _DMVR_KEYS if name in context), b"")
    labels = context["clip/label/index"].int64_list.value if "clip/label/index" in context else ()
    texts = context["clip/label/text"].bytes_list.value if "clip/label/text" in context else ()
    return Record(
        key=key.decode(*_TEXT),
        label=labels[0] if len(labels) else -1,  # several labels: the first
        label_name=texts[0].decode(*_TEXT) if len(texts) else "",
        num_frames=len(frames),
        frames=frames,
    )


def _head_crc(head: bytes) -> bytes:
    """Serialised Example with the checksum of the first one; its size is always the same."""
    value = b"\x0a\x06\x0a\x04" + struct.pack("<I", google_crc32c.value(head))
    entry = b"\x0a\x08head_crc\x12" + bytes([len(value)]) + value
    features = b"\x0a" + bytes([len(entry)]) + entry
    return b"\x0a" + bytes([len(features)]) + features


def head_size(prefix: bytes) -> int:
    """Number of leading bytes of a payload that read_head needs, 0 if this is not the start of a `jpeg` record."""
    length, shift = 0, 0
    for position, byte in enumerate(prefix[1:6], 2):
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return position + length + len(_head_crc(b"")) if prefix[:1] == b"\x0a" else 0
    return 0


def read_head(prefix: bytes, payload_size: int) -> Head | None:
    """Parses the head of a `jpeg` record of ours from at least head_size(prefix) bytes; None for other records.

    Raises:
      ValueError: the head's checksum is right, but its content is not.
    """
    end = head_size(prefix) - len(_head_crc(b""))
    if end <= 0 or prefix[end : end + len(_head_crc(b""))] != _head_crc(prefix[:end]):
        return None
    features, _ = _parse(prefix[:end])
    table = _one(features, "frame_table", "bytes_list")
    sizes, crcs = np.frombuffer(table[: len(table) // 8 * 8], "<u4").reshape(-1, 2).T
    sizes = sizes.astype(np.int64)
    framing = 2 + sum((sizes >= 1 << bits).astype(np.int64) for bits in (7, 14, 21, 28))  # tag and length, per frame
    starts = payload_size - np.cumsum((sizes + framing)[::-1])[::-1] + framing
    record = _from_features(features, (), need_video=False)
    if len(sizes) != record.num_frames or not len(sizes) or starts[0] < end:
        raise ValueError(f"num_frames is {record.num_frames}, the frame table has {len(sizes)} that do not fit")
    return Head(record, starts, sizes, crcs)
