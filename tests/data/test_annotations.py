"""Labels in seconds become labels of the frames that are shown then."""

import numpy as np
import pytest

from sigma_jax.data.annotations import Labels, decode, encode
from sigma_jax.data.decode import probe
from sigma_jax.datasets.annotation_lists import charades_labels
from sigma_jax.datasets.listing import Entry
from sigma_jax.datasets.payload import Payload
from sigma_jax.datasets.writing import read_video
from tests.data import odd_videos

SPANS = ((1, 0.3, 0.9), (4, 1.0, 1.01), (2, 0.0, 9.0), (0, 8.0, 9.0))


def test_at_an_even_rate_nothing_changes():
    seconds = Labels(SPANS, in_seconds=True)
    frames = seconds.in_frames(np.arange(60) / 25)
    assert not frames.in_seconds and (frames.in_frames([0.0]), frames.of_video(5).tolist()) == (frames, [1, 1, 1, 0, 1])
    for first in range(60):
        for last in range(first, 60, 7):
            np.testing.assert_array_equal(frames.between(first, last, 5), seconds.between(first, last, 5, fps=25))


def test_at_an_uneven_rate_frames_are_labelled_when_they_appear(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(odd_videos.ODD["vfr"]())
    info, labels = probe(path), charades_labels([("3", "0.5", "1.2")], "line 1")
    record, _ = read_video(Entry(path, "a.mp4", "", annotation=encode(labels)), -1, Payload("video"))
    stored = decode(record.annotation)
    (span,) = stored.spans
    shown = [i for i, time in enumerate(info.times) if 0.5 <= time <= 1.2]
    assert not stored.in_seconds and span == (3, shown[0], shown[-1])
    assert shown[0] != round(0.5 * info.fps), "the average rate tells another frame"


@pytest.mark.parametrize("times", [(), (np.nan, np.nan)])
def test_without_times_seconds_stay(times):
    seconds = Labels(SPANS, in_seconds=True)
    assert seconds.in_frames(times) == seconds
