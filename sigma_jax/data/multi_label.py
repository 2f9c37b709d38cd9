"""Clips with several labels at once: of a training clip those of its frames, of a test view those of its video."""

from dataclasses import dataclass

import numpy as np

from sigma_jax.data import annotations, records, schema
from sigma_jax.data.decoders import Decoding
from sigma_jax.data.labelled import LabelledReader, LabelledSpec
from sigma_jax.data.source import Source


@dataclass(frozen=True)
class MultiLabelSpec(LabelledSpec):
    """As LabelledSpec; the label is a row of 0 and 1, one for each class."""

    @property
    def label_shape(self) -> tuple[int, ...]:
        return (self.num_classes,)

    def make_reader(self, source: Source, cache_decoded: bool, decoding: Decoding) -> "MultiLabelReader":
        """What cuts these clips out of the videos of `source`."""
        return MultiLabelReader(source, self, cache_decoded, decoding)


class MultiLabelReader(LabelledReader):
    """Reads clips whose records have an annotation of labels (annotations.Labels)."""

    def label(self, record: schema.Record, frames: np.ndarray | None) -> np.ndarray:
        """Union of the labels of all frames between the first and the last one of a clip, or of the whole video.

        Raises:
          DataSetError: a video without labels of this kind, or one outside the label map.
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
