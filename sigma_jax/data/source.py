"""The protocol of all data sets that loaders read, and how the kind of a data folder is recognised.

The first of these that is found directly in the folder decides; deeper files (a run's pictures, say) are not looked at:

1. `*.array_record-*` files: a set of tensorflow-datasets, of images where features.json says so, else of videos
2. `*.tfrecord` shards: those of tools.prepare, or others' (data/schema.py, data/tfds_sets.py)
3. `SPLIT/<class>/<image>`: an image folder
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sigma_jax.data import metadata, records, schema, stills, tfds_sets


class Source(Protocol):
    """Random access to the records of one split. Picklable, thread-safe."""

    data_dir: Path
    split: str
    shards: Sequence[Path]  # the files, or for images the folder, that are read
    classes: Sequence[str]  # names in order of their numbers; empty where classes are numbers only or there are none
    stills: bool  # every record is one image
    lengths: Sequence[int]  # records of each shard

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> schema.Record:
        """Record number `index`; BadRecord where it is damaged, IndexError outside."""
        ...

    def read_whole(self, index: int) -> schema.Record:
        """Record number `index`, all of it in memory, with every available checksum checked."""
        ...

    def describe(self, index: int) -> tuple[str, int]:
        """(name of the file, number within it) of a record, for messages."""
        ...


def open_source(data_dir: str | os.PathLike, split: str) -> Source:
    """Opens a split of a data folder, whichever program wrote it, and compares it to the files beside the shards.

    Raises:
      DataSetError: nothing that can be read, shards are missing or damaged, or they contradict the files beside them.
    """
    source = open_unchecked(data_dir, split)
    contradictions = find_contradictions(source)
    if contradictions:
        raise records.DataSetError(" ".join(contradictions))
    return source


def find_contradictions(source: Source) -> list[str]:
    """metadata.find_contradictions of an opened split; [] for image data sets."""
    return [] if source.stills else metadata.find_contradictions(source.data_dir, source.split, source.lengths)


def open_unchecked(data_dir: str | os.PathLike, split: str) -> Source:
    """Opens a split without comparing it to the files beside the shards.

    Raises:
      DataSetError: nothing that can be read, or shards are missing or damaged.
    """
    data_dir = Path(data_dir)
    if tfds_sets.array_record_splits(data_dir):
        source = _open_array_records(data_dir, split)
    elif records.has_shards(data_dir) or not stills.has_images(data_dir, split):
        read = tfds_sets.find_reader(data_dir) or schema.decode_record
        source = records.RecordSource(data_dir, split, read)
        source.classes = metadata.read_label_map(data_dir) or list(tfds_sets.class_names(data_dir))
    else:
        source = stills.ImageFolder(data_dir, split)
    if not len(source):
        raise records.DataSetError(f"split {split!r} in {data_dir} holds no records")
    return source


def _open_array_records(data_dir: Path, split: str) -> Source:
    if tfds_sets.holds_stills(data_dir):
        return stills.TfdsImages(data_dir, split)
    return tfds_sets.open_array_records(data_dir, split)
