"""Video data sets that tensorflow-datasets wrote, as tfrecord or array_record, read by their features.json.

The video is the first feature of these kinds, in this order and then by name:

- `Video`, or a `Sequence` of `Image`, also inside a `FeaturesDict` or the steps of an episode: encoded pictures
- `Tensor` uint8 [F h w c], c 1 or 3, encoding none, bytes or zlib: pixels
- `Tensor` string [] whose content begins as a video file does: a compressed video
The label is the feature `label`, or else the first `ClassLabel`; the key is the first text feature named as in _KEYS.
TensorFlow is not needed, while tensorflow-datasets itself needs it to open a features.json with `Video`.
"""

import itertools
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sigma_jax.data.metadata import FEATURES, INFO, WRITER, damaged, read_json, read_label_map
from sigma_jax.data.records import BadRecord, DataSetError
from sigma_jax.data.schema import Record, parse_features

_KEYS = ("key", "video_id", "media_id", "id", "video_name", "filename", "name")
_VIDEO_STARTS = re.compile(
    rb"....(ftyp|moov|mdat|wide|free)|\x1aE\xdf\xa3|RIFF....AVI |FLV|\x00\x00\x01\xba|OggS", re.S
)
_OURS = {"key", "num_frames", "fps"}  # features in every features.json that tools.prepare writes


@dataclass(frozen=True)
class _Leaf:
    """One stored feature of features.json."""

    kind: str  # Video, Image, Tensor, Text, ClassLabel, ...
    shape: tuple[int, ...] = ()  # of a Tensor; -1: unknown
    dtype: str = ""
    encoding: str = "none"
    steps: int = 0  # number of nested sequences that contain it
    num_classes: int = 0


def _leaves(feature: dict, path: str = "", steps: int = 0) -> Iterator[tuple[str, _Leaf]]:
    """(name in the record, feature) of all features inside one entry of features.json."""
    kind = feature.get("pythonClassName", "").rpartition(".")[2]
    if "featuresDict" in feature:
        for name, inner in feature["featuresDict"]["features"].items():
            yield from _leaves(inner, f"{path}/{name}" if path else name, steps)
    elif "sequence" in feature:
        yield from _leaves(feature["sequence"]["feature"], path, steps + 1)
    else:
        tensor, classes = feature.get("tensor", {}), feature.get("classLabel", {})
        shape = tuple(int(side) for side in tensor.get("shape", {}).get("dimensions", ()))
        encoding = tensor.get("encoding", "none").lower() or "none"
        number = int(classes.get("numClasses", 0))
        yield path, _Leaf(kind, shape, tensor.get("dtype", ""), encoding, steps, number)


@dataclass(frozen=True)
class FeatureReader:
    """Parses payloads (tf.train.Example) into Records, as features.json describes them. Picklable.

    Attributes:
      video, label, key: names of the features; "" where there is none.
      leaf: the feature of the video.
      class_names: of the label, in order.
      num_classes: of the label; 0: not stated.
    """

    video: str
    leaf: _Leaf
    label: str = ""
    key: str = ""
    class_names: tuple[str, ...] = ()
    num_classes: int = 0

    def __call__(self, payload: bytes) -> Record:
        """Raises ValueError where the payload is no Example or lacks the video."""
        features = parse_features(payload)
        if self.video not in features:
            raise ValueError(f"expected a feature {self.video!r}, found {sorted(features)}")
        values = getattr(features[self.video], features[self.video].WhichOneof("kind") or "bytes_list").value
        label = _first(features, self.label, "int64_list", -1)
        named = 0 <= label < len(self.class_names)
        about = {
            "key": _first(features, self.key, "bytes_list", b"").decode("utf-8", "surrogateescape"),
            "label": label,
            "label_name": self.class_names[label] if named else "",
        }
        if self.leaf.kind in ("Video", "Image"):
            frames = tuple(values)
        elif self.leaf.dtype == "string":
            if len(values) != 1 or not _VIDEO_STARTS.match(values[0]):
                raise ValueError(f"feature {self.video!r} holds no compressed video")
            return Record(video=values[0], **about)
        else:
            frames = _Pixels(_tensor(values, self.leaf))
        if not frames:
            raise ValueError(f"feature {self.video!r} holds no frames")
        return Record(frames=frames, num_frames=len(frames), **about)


def _first(features: dict, name: str, kind: str, default):
    values = getattr(features[name], kind).value if name in features else ()
    return values[0] if len(values) else default


def _tensor(values, leaf: _Leaf) -> np.ndarray:
    """Pixels uint8 [F h w c] of one stored Tensor; raises ValueError if they do not have its shape."""
    if leaf.encoding == "none":
        pixels = np.array(values, np.int64)
        if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 255:
            raise ValueError(f"expected values of 0..255, got {pixels.min()}..{pixels.max()}")
        pixels = pixels.astype(np.uint8)
    else:
        if len(values) != 1:
            raise ValueError(f"expected one value, got {len(values)}")
        pixels = np.frombuffer(_inflate(values[0]) if leaf.encoding == "zlib" else values[0], np.uint8)
    if -1 in leaf.shape[1:]:
        raise ValueError(f"frames of shape {leaf.shape[1:]} in features.json: height, width and channels must be known")
    return pixels.reshape(-1, *leaf.shape[1:])


def _inflate(data: bytes) -> bytes:
    """Decompresses zlib data; raises ValueError if they are damaged or hold more than 2 GiB."""
    stream = zlib.decompressobj()
    try:
        pixels = stream.decompress(data, 2**31)
    except zlib.error as error:
        raise ValueError(f"not zlib data: {error}") from error
    if not stream.eof:
        raise ValueError("truncated, or more than 2 GiB of pixels")
    return pixels


class _Pixels(Sequence):
    """Frames as uncompressed pictures (portable pixmaps), each made on access."""

    def __init__(self, video: np.ndarray):
        self._video = video

    def __len__(self) -> int:
        return len(self._video)

    def __getitem__(self, index: int) -> bytes:
        height, width, channels = self._video.shape[1:]
        return b"P%d\n%d %d\n255\n" % (6 if channels == 3 else 5, width, height) + self._video[index].tobytes()


def find_reader(data_dir: Path) -> FeatureReader | None:
    """The reader of a folder's records; None if there is no features.json, or `tools.prepare` wrote it.

    Raises:
      DataSetError: features.json is damaged, or no feature in it can be a video.
    """
    leaves = _read_features(data_dir)
    if not leaves or leaves.keys() >= _OURS:
        return None
    if str(read_json(data_dir / INFO).get("description")).endswith(WRITER):
        raise damaged(data_dir / FEATURES, f"tools.prepare writes {sorted(_OURS)}, found {sorted(leaves)}")
    pictures = [name for name, leaf in leaves.items() if leaf.kind == "Video" or (leaf.kind == "Image" and leaf.steps)]
    pixels = [name for name, leaf in leaves.items() if leaf.dtype == "uint8" and _is_pixels(leaf)]
    files = [name for name, leaf in leaves.items() if leaf.dtype == "string" and not leaf.shape and not leaf.steps]
    files.sort(key=lambda name: "video" not in name.lower())
    video = next(itertools.chain(pictures, pixels, files), None)
    if video is None:
        kinds = {name: leaf.kind for name, leaf in leaves.items()}
        raise DataSetError(
            f"{data_dir / FEATURES} has no video (Video, Sequence of Image, uint8 or string Tensor): {kinds}"
        )
    labels = [name for name, leaf in leaves.items() if leaf.kind == "ClassLabel" and not leaf.steps]
    label = "label" if "label" in leaves else next(iter(labels), "")
    key = next((name for name in _KEYS if name in leaves and name != video), "")
    num_classes, names = leaves[label].num_classes if label else 0, _class_names(data_dir, label)
    if num_classes and names and len(names) != num_classes:
        raise damaged(_labels_path(data_dir, label), f"{len(names)} lines, {FEATURES} states {num_classes} classes")
    return FeatureReader(video, leaves[video], label, key, tuple(names), num_classes)


def _read_features(data_dir: Path) -> dict[str, _Leaf]:
    """The features of features.json by name, sorted; {} if there is no such file.

    Raises:
      DataSetError: it is damaged.
    """
    path = data_dir / FEATURES
    root = read_json(path)
    try:
        return dict(sorted(_leaves(root))) if root else {}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(path, f"{error!r:.200}") from error


def holds_stills(data_dir: Path) -> bool:
    """Whether records hold one image each, the feature `image` of features.json."""
    image = _read_features(data_dir).get("image", _Leaf(""))
    return image.kind == "Image" and not image.steps


def _is_pixels(leaf: _Leaf) -> bool:
    return len(leaf.shape) == 4 and leaf.shape[-1] in (1, 3) and not leaf.steps


def _labels_path(data_dir: Path, label: str) -> Path:
    return data_dir / f"{label.replace('/', '-')}.labels.txt"


def _class_names(data_dir: Path, label: str) -> list[str]:
    path = _labels_path(data_dir, label)
    text = path.read_text("utf-8", "surrogateescape") if label and path.exists() else ""
    return text.removesuffix("\n").split("\n") if text else []


def class_names(data_dir: Path) -> tuple[str, ...]:
    """Class names in order; () for other kinds of folders, or without class names."""
    reader = find_reader(data_dir)
    return reader.class_names if reader else ()


def num_classes(data_dir: Path) -> int:
    """Number of classes in features.json; 0 for other kinds of folders, or where it is not stated."""
    reader = find_reader(data_dir)
    return reader.num_classes if reader else 0


class ArrayRecords:
    """Random access to the array_record files of one split; a source.Source."""

    stills = False

    def __init__(self, shards: list[Path], split: str, read: FeatureReader):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.data_dir, self.split, self.shards, self._read = shards[0].parent, split, shards, read
        self.classes = read_label_map(self.data_dir) or list(read.class_names)
        self.lengths = [len(ArrayRecordDataSource(str(path))) for path in shards]
        self._ends = np.cumsum(self.lengths)
        self._source = ArrayRecordDataSource([str(path) for path in shards])

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Record number `index`; raises BadRecord where it is damaged or no video, IndexError outside."""
        shard, number = self.locate(index)
        try:
            return self._read(self._source[index])
        except (ValueError, RuntimeError) as error:  # array_record reports damage as either
            raise BadRecord(self.shards[shard].name, number, str(error)) from error

    read_whole = __getitem__  # array_record checks everything that it reads

    def describe(self, index: int) -> tuple[str, int]:
        """(name of the file, number within it) of a record."""
        shard, number = self.locate(index)
        return self.shards[shard].name, number

    def locate(self, index: int) -> tuple[int, int]:
        """(shard number, record number within it) of a record."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, int(index - (self._ends[shard - 1] if shard else 0))


def array_record_splits(data_dir: str | os.PathLike) -> list[str]:
    """Names of the splits for which there are array_record files."""
    return sorted({m["split"] for m in _array_record_files(Path(data_dir))})


def _array_record_files(folder: Path) -> list[re.Match]:
    named = re.compile(r"(?P<name>.+)-(?P<split>[^-]+)\.array_record-(?P<shard>\d{5})-of-(?P<count>\d{5})")
    return [m for m in map(named.fullmatch, sorted(os.listdir(folder)) if folder.is_dir() else []) if m]


def open_array_records(data_dir: str | os.PathLike, split: str) -> ArrayRecords:
    """Opens a split of a folder with array_record files.

    Raises:
      DataSetError: no such split, files are missing or damaged, or no features.json that describes the video.
    """
    folder = Path(data_dir)
    found = _array_record_files(folder)
    mine = [m for m in found if m["split"] == split]
    if not mine:
        raise DataSetError(f"{folder} has no split {split!r}, only {sorted({m['split'] for m in found})}")
    if len(mine) != int(mine[0]["count"]) or len({m["count"] for m in mine}) > 1:
        raise DataSetError(f"{folder}: found {len(mine)} array_record files of {split!r}, expected {mine[0]['count']}")
    read = find_reader(folder)
    if read is None:
        raise DataSetError(f"{folder} has no features.json of tensorflow-datasets, which says what the records hold")
    try:
        return ArrayRecords([folder / m.string for m in mine], split, read)
    except (ValueError, RuntimeError) as error:
        raise DataSetError(f"{folder}: its array_record files of {split!r} do not open: {error}") from error
