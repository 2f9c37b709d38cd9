"""Boundaries of cycles: offsets between phases, training intervals, first windows, annotations as text."""

import numpy as np
import pytest

from sigma_jax.data.annotations import Cycles, Labels, decode, encode, spans_of_frames
from sigma_jax.data.cycles import MAX_FRAMES, Interval, check_boundaries, draw_interval, draw_window, phase_offsets
from sigma_jax.ops.repetition_windows import IGNORED


def test_offsets_of_equal_cycles_are_their_length():
    following, preceding = phase_offsets(np.array([3, 13, 23, 33]))
    assert len(following) == 31
    assert set(following[:20]) == {10} and set(following[20:]) == {IGNORED}
    assert set(preceding[:10]) == {IGNORED} and set(preceding[10:]) == {10}


def test_cycles_of_very_different_length_are_not_compared():
    following, _ = phase_offsets(np.array([0, 10, 24, 26]))
    assert set(following) == {IGNORED}  # 10 against 14, 14 against 2
    assert phase_offsets(np.array([0, 4, 10]))[0][0] == 4  # two frames more are never too many


@pytest.mark.parametrize(
    "boundaries,num_frames,text",
    [
        ([0, 5], None, "1 cycles between 2 boundaries: expected at least 2 cycles"),
        ([], None, "0 cycles"),
        ([0, 5, 5], None, "boundaries out of order: 5 follows 5"),
        ([-1, 5, 9], None, "before the first frame: -1"),
        ([0, 5, 10], 10, "shorter than its annotation: 10 frames, the last boundary is frame 10"),
    ],
)
def test_boundaries_that_cannot_be(boundaries, num_frames, text):
    with pytest.raises(ValueError, match=text):
        check_boundaries(np.array(boundaries), num_frames)
    check_boundaries(np.array([0, 5, 10]), 11)


def test_intervals_and_windows_stay_in_the_video():
    rng = np.random.default_rng(0)
    bounds = np.arange(9) * 50 + 7
    seen = set()
    for _ in range(300):
        interval = draw_interval(bounds, rng)
        assert 7 <= interval.first < interval.last <= 407
        assert interval.length <= MAX_FRAMES and interval.count >= 2
        seen.add((interval.first == 7, interval.last == 407))
        left, middle, right = draw_window(interval, 50, rng)
        assert 0 <= left <= middle and 0 < right < interval.length and right == 2 * middle - left + 1
    assert len(seen) >= 3
    for length in range(3, 30):
        assert draw_window(Interval(0, length - 1, 2), IGNORED, rng)[2] < length


def test_annotations_survive_as_text():
    for annotation in (Cycles((1, 5, 9), "x.mat"), Labels(((3, 0, 8), (7, 2.5, 4.0)), True, "line 3 of y")):
        assert decode(encode(annotation)) == annotation
    for text in ("{", '{"kind":"other"}', "[]", '{"kind":"cycles"}'):
        with pytest.raises(ValueError, match="no annotation"):
            decode(text)


def test_labels_of_a_clip_are_the_union_of_its_frames():
    spans = spans_of_frames([[2], [2, 5], [5], [], [2]])
    assert spans == ((2, 0, 1), (2, 4, 4), (5, 1, 2))
    labels = Labels(spans, at="line 4 of list")
    assert labels.between(3, 3, 6).tolist() == [0] * 6
    assert labels.between(0, 0, 6).tolist() == [0, 0, 1, 0, 0, 0]
    assert labels.between(2, 4, 6).tolist() == labels.of_video(6).tolist() == [0, 0, 1, 0, 0, 1]
    with pytest.raises(ValueError, match=r"line 4 of list: labels \[5\] are not in the label map, expected 0..4"):
        labels.between(0, 1, 5)
    with pytest.raises(ValueError, match="shorter than its annotation: 4 frames"):
        labels.check(4)
    seconds = Labels(((1, 1.0, 2.0),), in_seconds=True)
    assert seconds.between(0, 23, 2, fps=24.0).sum() == 0 and seconds.between(0, 24, 2, fps=24.0).sum() == 1
    with pytest.raises(ValueError, match="frame rate"):
        seconds.between(0, 24, 2)
