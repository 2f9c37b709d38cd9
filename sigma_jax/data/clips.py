"""From a record to a clip: the chosen frames are decoded, cropped and resized."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sigma_jax.data import augment, decode, decoders, metadata, pictures, records, sampling, schema, time_limit
from sigma_jax.data.decoders import AUTO, Decoding
from sigma_jax.data.source import Source
from sigma_jax.runtime.errors import InvalidValue

CROPS = ("multi_scale", "center", "none")
CACHE_BYTES = 2**31  # decoded videos that one reader keeps in memory; further videos are decoded each time


class Clip(NamedTuple):
    """A clip uint8 [F s s 3], its label (a class, -1: none, or an array of `label_shape`), and the video's key."""

    video: np.ndarray
    label: int | np.ndarray
    key: str


@dataclass(frozen=True)
class ClipSpec:
    """Unlabelled clips: which frames are taken and how they are cropped.

    Attributes:
      num_frames: F.
      frame_stride: distance of neighbouring frames, in frames of the video.
      image_size: side of the clip, pixels.
      crop: 'multi_scale' (random, the authors' pre-training), 'center', or 'none' for videos that have the right size.
    """

    num_frames: int
    frame_stride: int
    image_size: int
    crop: str = "center"

    def __post_init__(self):
        if self.crop not in CROPS:
            raise InvalidValue(f"crop {self.crop!r} is unknown, expected one of {CROPS}")
        if min(self.num_frames, self.frame_stride, self.image_size) < 1:
            raise InvalidValue(f"num_frames, frame_stride and image_size must be at least 1, got {self}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.num_frames, self.image_size, self.image_size, 3

    @property
    def label_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def is_random(self) -> bool:
        return self.crop == "multi_scale"

    @property
    def num_test_views(self) -> int:
        return 1

    def make_reader(self, source: Source, cache_decoded: bool, decoding: Decoding) -> "ClipReader":
        """A reader of such clips; raises DataSetError where `source` holds images."""
        if source.stills:
            raise records.DataSetError(
                f"{source.data_dir} holds images, one a record: these clips are cut out of videos"
            )
        return ClipReader(source, self, cache_decoded, decoding)


def decode_record(
    record: schema.Record,
    indices: np.ndarray,
    num_frames: int | None = None,
    decoder: str = "auto",
    choose_box: pictures.ChooseBox | None = None,
) -> np.ndarray:
    """Decodes frames of a record, whatever its payload, as RGB uint8 [n h w 3].

    Args:
      indices: int [n], frame numbers from 0.
      num_frames: frames of the video, where known (decode.decode_frames).
      decoder: one of decoders.DECODERS, for compressed videos.
      choose_box: returns the part of the pictures that is wanted (pictures.decode_images); None: all.

    Raises:
      BadVideo: the frames cannot be decoded.
      BadRecord: a frame is damaged on disk.
    """
    if not record.frames:
        return pictures.cut_out(decoders.decode_frames(record.video, indices, num_frames, decoder), choose_box)
    wanted, places = np.unique(indices, return_inverse=True)
    if wanted[-1] >= len(record.frames):
        raise pictures.BadVideo(f"frame {wanted[-1]} asked for, but there are {len(record.frames)}")
    images = pictures.decode_images([record.frames[i] for i in wanted], choose_box)
    return images if np.array_equal(wanted, indices) else images[places]


class ClipReader:
    """Reads one clip of one record. Runs in worker processes and threads."""

    def __init__(self, source: Source, spec: ClipSpec, cache_decoded: bool, decoding: Decoding = AUTO):
        self.source, self.spec, self.decoding = source, spec, decoding
        self._cache, self._cache_room = {} if cache_decoded else None, CACHE_BYTES
        self._too_slow = set()  # numbers of records that took too long: not tried again

    def read(self, index: int, rng: np.random.Generator | None, number: int = 0) -> Clip:
        """Reads a clip of one record.

        Args:
          index: number of the record.
          rng: draws frames and crop; None: the central frames.
          number: which copy or test view of the video; used by readers that have several (labelled.py).

        Raises:
          BadRecord, BadVideo: the record or its video cannot be read.
        """
        record, num_frames, decoded = self._load(index)
        if rng is None:
            frames = sampling.center_indices(num_frames, self.spec.num_frames, self.spec.frame_stride)
        else:
            frames = sampling.pretrain_indices(num_frames, self.spec.num_frames, self.spec.frame_stride, rng)
        choose_box = None
        if self.spec.crop == "multi_scale":
            choose_box = functools.partial(augment.multi_scale_crop_box, size=self.spec.image_size, rng=rng)
        if decoded is None:
            video = self.decode(index, record, frames, num_frames, choose_box)
        else:
            video = pictures.cut_out(decoded[frames], choose_box)
        return Clip(self._resize(video), record.label, record.key)

    def _load(self, index: int) -> tuple[schema.Record, int, np.ndarray | None]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        record, decoded = self.source[index], None
        wrong = metadata.check_label(self.source.classes, record.label, record.label_name)
        if wrong:
            raise records.DataSetError(f"{self.source.data_dir}, {record.key}: {wrong}. Copy the label map again")
        # A record of another writer may not state its number of frames: the video is decoded to count them.
        num_frames = record.num_frames or len(record.frames)
        if not num_frames:
            num_frames = self._limited(index, decode.probe, record.video).num_frames
        if self._cache is not None and self._cache_room > 0:
            decoded = self.decode(index, record, np.arange(num_frames), num_frames)
            self._cache_room -= decoded.nbytes
            self._cache[index] = replace(record, video=b"", frames=()), num_frames, decoded
        return record, num_frames, decoded

    def decode(
        self,
        index: int,
        record: schema.Record,
        frames: np.ndarray,
        num_frames: int,
        choose_box: pictures.ChooseBox | None = None,
    ) -> np.ndarray:
        """`decode_record` with this reader's decoder and time limit; raises BadVideo when video `index` exceeds it.

        Encoded pictures have no time limit: their size bounds the work, and the limit's thread would take a tenth more.
        """
        if record.frames:
            return decode_record(record, frames, choose_box=choose_box)
        return self._limited(index, decode_record, record, frames, num_frames, self.decoding.decoder, choose_box)

    def _limited(self, index: int, function: Callable, *args):
        reason = f"decoding took more than {self.decoding.timeout:g} s"
        if index in self._too_slow:
            raise pictures.BadVideo(reason)
        try:
            return time_limit.call(self.decoding.timeout, function, *args)
        except TimeoutError as error:
            self._too_slow.add(index)
            raise pictures.BadVideo(reason) from error

    def _resize(self, video: np.ndarray) -> np.ndarray:
        """Resizes decoded pictures [F h w 3] to the clip's size."""
        size = self.spec.image_size
        if self.spec.crop == "multi_scale":
            return augment.resize_fast(video, size, size)
        if self.spec.crop == "center":
            return augment.center_crop_resize(video, size)
        if video.shape[1:3] != (size, size):
            raise InvalidValue(f"crop 'none' expects {size} x {size} videos, got {video.shape[1]} x {video.shape[2]}")
        return video

    def describe(self, index: int, error: Exception) -> dict:
        """The entry of a record in bad_records.jsonl."""
        name, number = self.source.describe(index)
        where = {"record": index, "key": self.key(index), "shard": name, "record_in_shard": number}
        return where | {"reason": str(error)}

    def key(self, index: int) -> str:
        """Key of a record, "" where the record is damaged."""
        try:
            return self.source[index].key
        except records.BadRecord:
            return ""
