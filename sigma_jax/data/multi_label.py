"""Clips with several labels at once: a training clip has the labels of its frames, a test view those of its video."""

from dataclasses import dataclass

import numpy as np

from sigma_jax.data import annotations, records, schema
from sigma_jax.data.decoders import Decoding
from sigma_jax.data.labelled import LabelledReader, LabelledSpec
from sigma_jax.data.source import Source


@dataclass(frozen=True)
class MultiLabelSpec(LabelledSpec):
    """A LabelledSpec whose labels are multi-hot vectors."""

    @property
    def label_shape(self) -> tuple[int, ...]:
        return (self.num_classes,)

    def make_reader(self, source: Source, cache_decoded: bool, decoding: Decoding) -> "MultiLabelReader":
        """A reader of such clips."""
        return MultiLabelReader(source, self, cache_decoded, decoding)


class MultiLabelReader(LabelledReader):
    """Reads clips whose records have an annotation of labels (annotations.Labels)."""

    def label(self, record: schema.Record, frames: np.ndarray | None) -> np.ndarray:
        """Labels of all frames from the first to the last one of a clip, or (None) of the whole video.

        Returns:
          Multi-hot, uint8 [num_classes].

        Raises:
          DataSetError: the video has no labels of this kind, or one outside the label map.
        """
        try:
            found = annotations.decode(record.annotation)
            if not isinstance(found, annotations.Labels):
                raise ValueError("its annotation is of another kind")
            if frames is None:
                return found.of_video(self.spec.num_classes)
            return found.between(int(frames[0]), int(frames[-1]), self.spec.num_classes, record.fps)
        except ValueError as error:
            raise records.DataSetError(
                f"{record.key}: {error}. Every video of {self.source.data_dir} needs labels: prepare it with "
                "--format=charades_frames or charades"
            ) from error
