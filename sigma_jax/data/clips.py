"""What is cut out of one video: its record is read, the chosen frames are decoded, cropped and resized."""

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
CACHE_BYTES = 2**31  # of decoded videos kept by one reader; videos beyond that are decoded each time


class Clip(NamedTuple):
    """What was read: clip uint8 [F s s 3], class (-1: none) or what the spec says of it, name of the video."""

    video: np.ndarray
    label: int | np.ndarray
    key: str


@dataclass(frozen=True)
class ClipSpec:
    """What is cut out of a video."""

    num_frames: int
    frame_stride: int
    image_size: int
    crop: str = "center"  # one of CROPS

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
        """What cuts these clips out of the videos of `source`; DataSetError where it holds images."""
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
    """Frames `indices` of a record, whatever its payload, as RGB uint8 [n h w 3]; see decoders.decode_frames.

    With `choose_box` only that part of them, see pictures.decode_images.
    Raises BadVideo, and BadRecord where a frame is damaged on disk.
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
        """A clip of record `index`: a random one, or without rng the central one.

        `number`: which copy or view of the video, for readers that make several (labelled.py); there is one here.
        Raises BadRecord or BadVideo where there is none.
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
        # a record that does not know its length (another writer's) is decoded to find out
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
        """As decode_record with this reader's decoder; video `index` is a BadVideo where it takes too long.

        Pictures need no limit: their size bounds the work, and waiting in another thread costs a tenth of it.
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
        """What was cut out, in the size that is wanted."""
        size = self.spec.image_size
        if self.spec.crop == "multi_scale":
            return augment.resize_fast(video, size, size)
        if self.spec.crop == "center":
            return augment.center_crop_resize(video, size)
        if video.shape[1:3] != (size, size):
            raise InvalidValue(f"crop 'none' expects {size} x {size} videos, got {video.shape[1]} x {video.shape[2]}")
        return video

    def describe(self, index: int, error: Exception) -> dict:
        """One line of bad_records.jsonl."""
        name, number = self.source.describe(index)
        where = {"record": index, "key": self.key(index), "shard": name, "record_in_shard": number}
        return where | {"reason": str(error)}

    def key(self, index: int) -> str:
        """Key of a record, "" where it was lost with the record."""
        try:
            return self.source[index].key
        except records.BadRecord:
            return ""
