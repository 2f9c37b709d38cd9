"""Labelled clips for training and testing classifiers: random copies of a video, or its test views.

Test views are numbered view * num_crops + crop.
"""

import threading
from dataclasses import dataclass

import numpy as np

from sigma_jax.data import pictures, records, schema
from sigma_jax.data.clips import Clip, ClipReader
from sigma_jax.data.decoders import AUTO, Decoding
from sigma_jax.data.finetune_augment import TrainAugment, ViewCrop
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.data.source import Source


@dataclass(frozen=True)
class LabelledSpec:
    """Labelled clips for training a classifier, and test views.

    Attributes:
      sampling: which frames are taken.
      image_size: side of the clip, pixels.
      num_classes: labels must be below it.
      augment: augmentation of training clips.
      crops: spatial crops of test views.
      num_views: temporal test views of a video.
    """

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
    def label_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def num_test_views(self) -> int:
        """Views of one video, temporal times spatial."""
        return self.num_views * self.crops.num_crops

    @property
    def is_random(self) -> bool:
        return False

    def make_reader(self, source: Source, cache_decoded: bool, decoding: Decoding) -> "LabelledReader":
        """A reader of such clips; an image is a video of one frame."""
        return LabelledReader(source, self, cache_decoded, decoding)


class LabelledReader(ClipReader):
    """Reads training copies (with rng) or test views (without) of one record. A still is a video of one frame."""

    def __init__(
        self,
        source: Source,
        spec: LabelledSpec,
        cache_decoded: bool = False,
        decoding: Decoding = AUTO,
    ):
        super().__init__(source, spec, cache_decoded, decoding)
        self._latest = threading.local()  # the last decoded frames, which copies and crops of one video share

    def read(self, index: int, rng: np.random.Generator | None, number: int = 0) -> Clip:
        """Reads a labelled clip: with rng, copy `number` of a random clip; without, test view `number`.

        Copies with equal rngs have the same frames and differ in their augmentation.

        Raises:
          BadRecord, BadVideo: the record or its video cannot be read.
          DataSetError: a label that is no class.
        """
        record, num_frames, decoded = self._load(index)
        spec = self.spec
        if rng is None:
            view, crop = divmod(number, spec.crops.num_crops)
            frames = spec.sampling.view(num_frames, view, spec.num_views)
        else:
            frames = spec.sampling.train(num_frames, rng)
        label = self.label(record, None if rng is None else frames)
        video = self._frames(index, record, num_frames, decoded, frames)
        if rng is None:
            video = spec.crops(video, spec.image_size, crop)
        else:
            video = spec.augment(video, spec.image_size, np.random.default_rng((int(rng.integers(2**62)), number)))
        return Clip(np.broadcast_to(video, spec.shape), label, record.key)

    def label(self, record: schema.Record, frames: np.ndarray | None) -> int | np.ndarray:
        """The label of frames [F] of a training clip, or of a whole video (None).

        Raises:
          DataSetError: a label that is no class.
        """
        if not 0 <= record.label < self.spec.num_classes:
            raise records.DataSetError(
                f"{record.key} has label {record.label}, expected 0..{self.spec.num_classes - 1}: every video of "
                f"{self.source.data_dir} needs a class of its label map"
            )
        return record.label

    def _frames(self, index, record, num_frames, decoded, frames) -> np.ndarray:
        if self.source.stills:
            return pictures.decode_image(record.video)[None]
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
