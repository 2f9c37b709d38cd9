"""Labelled clips for training and testing classifiers: random copies of a video, or its test views.

Test views are numbered view * num_crops + crop.
"""

import math
import os
import threading
from dataclasses import dataclass

import numpy as np

from sigma_jax.data import decode, records
from sigma_jax.data.bad_records import BadRecords
from sigma_jax.data.clips import Clip, ClipReader
from sigma_jax.data.decoders import AUTO, Decoding
from sigma_jax.data.finetune_augment import TrainAugment, ViewCrop
from sigma_jax.data.pipeline import EvalChunks, Loader, ShuffledChunks, endless_loader, make_layout, open_source
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.data.stills import StillSource, open_stills


@dataclass(frozen=True)
class Workers:
    """Who reads: processes of this host (0: threads of this process), and this host among all."""

    num_workers: int = 0
    process_index: int = 0
    process_count: int = 1


@dataclass(frozen=True)
class LabelledSpec:
    """What is cut out of a labelled video: frames, a size, and what happens to them in training and in tests."""

    sampling: FrameSampling
    image_size: int
    num_classes: int
    augment: TrainAugment = TrainAugment()
    crops: ViewCrop = ViewCrop()
    num_views: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sampling.num_frames, self.image_size, self.image_size, 3

    @property
    def num_test_views(self) -> int:
        """Views of one video, temporal times spatial."""
        return self.num_views * self.crops.num_crops


class LabelledReader(ClipReader):
    """Reads training copies (with rng) or test views (without) of one record. A still is a video of one frame."""

    def __init__(
        self,
        source: records.RecordSource | StillSource,
        spec: LabelledSpec,
        cache_decoded: bool = False,
        decoding: Decoding = AUTO,
    ):
        super().__init__(source, spec, cache_decoded, decoding)
        self._latest = threading.local()  # frames decoded last: neighbouring copies and crops share them

    def read(self, index: int, rng: np.random.Generator | None, number: int = 0) -> Clip:
        """A labelled clip: copy `number` of a random clip, or test view `number`.

        Copies of one rng have the same frames and differ in everything else.

        Raises:
          BadRecord, BadVideo: unreadable. DataSetError: a label that is no class.
        """
        record, num_frames, decoded = self._load(index)
        spec = self.spec
        if not 0 <= record.label < spec.num_classes:
            raise records.DataSetError(
                f"{record.key} has label {record.label}, expected 0..{spec.num_classes - 1}: every video of "
                f"{self.source.shards[0].parent} needs a class of its label map"
            )
        if rng is None:
            view, crop = divmod(number, spec.crops.num_crops)
            frames = spec.sampling.view(num_frames, view, spec.num_views)
        else:
            frames = spec.sampling.train(num_frames, rng)
        video = self._frames(index, record, num_frames, decoded, frames)
        if rng is None:
            video = spec.crops(video, spec.image_size, crop)
        else:
            video = spec.augment(video, spec.image_size, np.random.default_rng((int(rng.integers(2**62)), number)))
        return Clip(np.broadcast_to(video, spec.shape), record.label, record.key)

    def _frames(self, index, record, num_frames, decoded, frames) -> np.ndarray:
        if isinstance(self.source, StillSource):
            return decode.decode_image(record.video)[None]
        if decoded is not None:
            return decoded[frames]
        key = index, frames.tobytes()
        if getattr(self._latest, "key", None) != key:
            self._latest.video = self.decode(index, record, frames, num_frames)
            self._latest.key = key
        return self._latest.video

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_latest"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _latest=threading.local())


def open_labelled(data_dir: str | os.PathLike, split: str) -> records.RecordSource | StillSource:
    """Record shards of `tools.prepare`, or still images (stills.py). Raises DataSetError where neither is in order."""
    return open_stills(data_dir, split) or open_source(data_dir, split)


def train_loader(
    data_dir: str | os.PathLike,
    spec: LabelledSpec,
    *,
    split: str = "train",
    global_batch: int,
    repeats: int = 1,
    seed: int,
    workers: Workers = Workers(),
    cache_decoded: bool = False,
    max_bad_fraction: float = 0.01,
    bad_records_path: str | os.PathLike | None = None,
    decoding: Decoding = AUTO,
) -> Loader:
    """Endless shuffled labelled clips; an unreadable video is replaced, as published, and counted.

    Args:
      spec: what is cut out of a video.
      global_batch: videos per step over all processes; a batch holds global_batch * repeats clips.
      repeats: how often the same frames are augmented (repeated augmentation); copies are neighbours in the batch.
      seed: decides order, frames and augmentation.
      cache_decoded, max_bad_fraction, bad_records_path, decoding: as in pretrain_loader.
    """
    reader = LabelledReader(open_labelled(data_dir, split), spec, cache_decoded, decoding)
    layout = make_layout(global_batch * repeats, workers.process_index, workers.process_count, spec)
    bad = BadRecords(max_bad_fraction, bad_records_path, len(reader.source))
    return endless_loader(ShuffledChunks(reader, layout, seed, repeats), num_workers=workers.num_workers, bad=bad)


def view_loader(
    data_dir: str | os.PathLike,
    spec: LabelledSpec,
    *,
    split: str = "val",
    global_batch: int,
    workers: Workers = Workers(),
    decoding: Decoding = AUTO,
) -> Loader:
    """One pass over all test views of a split, in order; padding and unreadable videos (listed) have weight 0."""
    reader = LabelledReader(open_labelled(data_dir, split), spec, decoding=decoding)
    layout = make_layout(global_batch, workers.process_index, workers.process_count, spec)
    views = spec.num_test_views
    chunks = EvalChunks(reader, layout, allow_incomplete=True, views=views)
    num_batches = math.ceil(len(reader.source) * views / global_batch)
    bad = BadRecords(max_fraction=1.0, path=None, num_records=len(reader.source))
    return Loader(chunks, num_batches=num_batches, num_workers=workers.num_workers, bad=bad)
