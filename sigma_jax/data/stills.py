"""Image data sets as still clips: a folder of class folders, or what tensorflow-datasets has prepared.

DATA/train/<class>/<image>, DATA/val/<class>/<image>        (ImageNet's layout)
tfds/<name>/<config or version>/...array_record             (--data_dir names the folder of the version)
"""

import os
from pathlib import Path

from sigma_jax.data.metadata import read_label_map
from sigma_jax.data.records import DataSetError, Record
from sigma_jax.data.tfds_sets import holds_stills

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class StillSource:
    """Random access to labelled images: `len(source)`, `source[i] -> Record` with one frame."""

    class_names: list[str]
    shards: list[Path]

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Record:
        raise NotImplementedError

    def locate(self, index: int) -> tuple[int, int]:
        """(shard number, record number within it), for reports of unreadable records."""
        return 0, index


class ImageFolder(StillSource):
    """`data_dir/split/<class>/<image>`; classes are numbered by the label map, or else by name."""

    def __init__(self, data_dir: str | os.PathLike, split: str):
        folder = Path(data_dir, split)
        self.shards = [folder]
        found = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in _SUFFIXES)
        self.class_names = read_label_map(Path(data_dir)) or sorted({path.parent.name for path in found})
        number = {name: i for i, name in enumerate(self.class_names)}
        unknown = sorted({path.parent.name for path in found} - number.keys())
        if not found or unknown:
            raise DataSetError(
                f"{folder} holds {len(found)} images, classes without a line in label_map.txt: {unknown[:9] or 'none'}"
            )
        self._items = [(path, number[path.parent.name]) for path in found]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Record:
        path, label = self._items[index]
        key = path.relative_to(self.shards[0]).as_posix()
        return Record(path.read_bytes(), key, label, path.parent.name, num_frames=1)


class TfdsImages(StillSource):
    """A prepared tensorflow-datasets folder with features `image` and `label`, in array_record files."""

    def __init__(self, data_dir: str | os.PathLike, split: str):
        import tensorflow_datasets as tfds  # half a second: only for these data sets

        builder = tfds.builder_from_directory(data_dir)
        if split not in builder.info.splits:
            raise DataSetError(f"{data_dir} has no split {split!r}, only {sorted(builder.info.splits)}")
        decoders = {"image": tfds.decode.SkipDecoding()}
        try:
            self._rows = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as error:
            raise DataSetError(
                f"{data_dir} is not stored as array_record, which random access needs: prepare it again with "
                "tfds.builder(NAME, file_format='array_record').download_and_prepare()"
            ) from error
        self.class_names = list(builder.info.features["label"].names)
        self.shards = [Path(data_dir)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = self._rows[index]
        label = int(row["label"])
        return Record(row["image"], str(index), label, self.class_names[label], num_frames=1)


def open_stills(data_dir: str | os.PathLike, split: str) -> StillSource | None:
    """The images in a folder, None where it holds something else."""
    data_dir = Path(data_dir)
    if next(data_dir.glob("*.array_record*"), None) and holds_stills(data_dir):
        return TfdsImages(data_dir, split)
    if next((path for path in data_dir.glob("*/*/*") if path.suffix.lower() in _SUFFIXES), None):
        return ImageFolder(data_dir, split)
    return None
