"""Frame choice against hand-worked cases and the rule spelled out."""

import numpy as np
import pytest

from sigma_jax.data import sampling

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("num_frames_in_video", "expected"),
    [
        (1, [0, 0, 0, 0]),
        (2, [0, 0, 0, 0]),
        (9, [0, 4, 4, 4]),
        (10, [0, 4, 8, 8]),
        (14, [0, 4, 8, 12]),
        (15, [0, 4, 8, 12]),
    ],
)
def test_short_videos_by_hand(num_frames_in_video, expected):
    assert sampling.pretrain_indices(num_frames_in_video, 4, 4, RNG).tolist() == expected


def test_short_videos_follow_the_published_rule():
    for stride in (1, 2, 3, 4):
        for num_frames_in_video in range(1, 16 * stride):
            offset, expected = 1, []
            for _ in range(16):
                expected.append(offset - 1)
                offset += stride if offset + stride < num_frames_in_video else 0
            assert sampling.pretrain_indices(num_frames_in_video, 16, stride, RNG).tolist() == expected


def test_long_videos_start_uniformly():
    clips = np.stack([sampling.pretrain_indices(20, 4, 4, RNG) for _ in range(5000)])
    np.testing.assert_array_equal(clips - clips[:, :1], np.broadcast_to([0, 4, 8, 12], clips.shape))
    counts = np.bincount(clips[:, 0])
    assert len(counts) == 5  # starts 0 .. 20 - 16
    assert counts.min() > 900 and counts.max() < 1100


def test_center_clip():
    assert sampling.center_indices(20, 4, 4).tolist() == [3, 7, 11, 15]
    assert sampling.center_indices(8, 8, 1).tolist() == list(range(8))
    assert sampling.center_indices(3, 4, 2).tolist() == [0, 2, 2, 2]


@pytest.mark.parametrize("bad", [(0, 4, 4), (10, 0, 4), (10, 4, 0)])
def test_impossible_clips(bad):
    with pytest.raises(ValueError, match="at least one"):
        sampling.pretrain_indices(*bad, RNG)
