"""Image data sets, whose images are read as clips of one frame: a folder of class folders, or a set of TFDS.

DATA/train/<class>/<image>, DATA/val/<class>/<image>        (ImageNet's layout)
tfds/<name>/<config or version>/...array_record             (--data_dir names the folder of the version)
"""

import os
from pathlib import Path

from sigma_jax.data.metadata import read_label_map, read_shard_lengths
from sigma_jax.data.records import BadRecord, DataSetError, Record

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class ImageFolder:
    """`data_dir/split/<class>/<image>`; classes are numbered by the label map, or else by name."""

    stills = True

    def __init__(self, data_dir: str | os.PathLike, split: str):
        folder = Path(data_dir, split)
        self.data_dir, self.split, self.shards = Path(data_dir), split, [folder]
        found = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in _SUFFIXES)
        self.classes = read_label_map(self.data_dir) or sorted({path.parent.name for path in found})
        number = {name: i for i, name in enumerate(self.classes)}
        unknown = sorted({path.parent.name for path in found} - number.keys())
        if not found or unknown:
            raise DataSetError(
                f"{folder} holds {len(found)} images, classes without a line in label_map.txt: {unknown[:9] or 'none'}"
            )
        self._items = [(path, number[path.parent.name]) for path in found]
        self.lengths = [len(found)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Record:
        path, label = self._items[index]
        key = path.relative_to(self.shards[0]).as_posix()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadRecord(*self.describe(index), str(error)) from error
        return Record(data, key, label, path.parent.name, num_frames=1)

    read_whole = __getitem__

    def describe(self, index: int) -> tuple[str, int]:
        """(name of the folder, number of the image)."""
        return self.shards[0].name, index


class TfdsImages:
    """A prepared tensorflow-datasets folder with features `image` and `label`, in array_record files."""

    stills = True

    def __init__(self, data_dir: str | os.PathLike, split: str):
        import tensorflow_datasets as tfds  # half a second: only for these data sets

        read_shard_lengths(Path(data_dir), split)  # names the file where it is damaged
        try:
            builder = tfds.builder_from_directory(data_dir)
        except Exception as error:  # of many kinds
            raise DataSetError(
                f"{data_dir}: tensorflow-datasets cannot read its features.json and dataset_info.json: {error!r:.300}"
            ) from error
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
        self.data_dir, self.split, self.shards = Path(data_dir), split, [Path(data_dir)]
        self.classes, self.lengths = list(builder.info.features["label"].names), [len(self._rows)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        try:
            row = self._rows[index]
        except (ValueError, RuntimeError) as error:  # array_record reports damage as either
            raise BadRecord(*self.describe(index), str(error)) from error
        label = int(row["label"])
        return Record(row["image"], str(index), label, self.classes[label], num_frames=1)

    read_whole = __getitem__

    def describe(self, index: int) -> tuple[str, int]:
        """(name of the folder, number of the image)."""
        return self.shards[0].name, index


def has_images(data_dir: Path, split: str) -> bool:
    """Whether `data_dir/split` holds images in class folders."""
    return any(path.suffix.lower() in _SUFFIXES for path in (data_dir / split).glob("*/*"))


def find_splits(data_dir: Path) -> list[str]:
    """Folders of `data_dir` that hold images in class folders."""
    folders = sorted(os.listdir(data_dir)) if data_dir.is_dir() else []
    return [name for name in folders if has_images(data_dir, name)]
