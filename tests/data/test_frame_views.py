"""Frames of training clips and test views: the worked checks of the published code, and limits."""

import numpy as np
import pytest

from sigma_jax.data.sampling import FrameSampling, dense_window

DENSE, UNIFORM = FrameSampling("dense", 16, 4), FrameSampling("uniform", 16)


def test_dense_window_spreads_over_the_span():
    expected = [136, 140, 144, 148, 153, 157, 161, 165, 170, 174, 178, 182, 187, 191, 195, 199]
    assert dense_window(200, 64, 16).tolist() == expected


def test_dense_training_starts_everywhere():
    rng = np.random.default_rng(0)
    clips = [DENSE.train(300, rng) for _ in range(4000)]
    starts = {int(clip[0]) for clip in clips}
    assert min(starts) == 0 and max(starts) == 299 - 64
    assert all(clip.shape == (16,) and (np.diff(clip) >= 4).all() and clip[-1] <= 298 for clip in clips)


def test_dense_training_on_a_short_video():
    expected = [0, 4, 8, 13, 17, 22, 26, 31, 35] + [39] * 7
    assert DENSE.train(40, np.random.default_rng(0)).tolist() == expected
    assert DENSE.train(1, np.random.default_rng(0)).tolist() == [0] * 16


@pytest.mark.parametrize(
    ("num_views", "starts"), [(7, [0, 36, 76, 116, 156, 196, 236]), (5, [0, 56, 116, 176, 236]), (1, [119])]
)
def test_dense_views(num_views, starts):
    views = [DENSE.view(300, view, num_views) for view in range(num_views)]
    assert [int(view[0]) for view in views] == starts
    assert all((np.diff(view) == 4).all() for view in views)


def test_dense_views_of_a_short_video_are_alike():
    views = [DENSE.view(50, view, 5).tolist() for view in range(5)]
    assert views[0] == [*range(0, 52, 4), 48, 48, 48] and all(view == views[0] for view in views)


def test_uniform_views():
    first = [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37]
    second = [1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28, 31, 33, 36, 38]
    assert UNIFORM.view(40, 0, 2).tolist() == first
    assert UNIFORM.view(40, 1, 2).tolist() == second
    assert UNIFORM.view(40, 0, 1).tolist() == second  # one view: the middles


def test_uniform_training_draws_inside_its_segment():
    rng = np.random.default_rng(0)
    clips = np.stack([UNIFORM.train(50, rng) for _ in range(500)])  # segments of 3 frames
    offsets = clips - 3 * np.arange(16)
    assert offsets.min() == 0 and offsets.max() == 2
    assert len(np.unique(offsets[:, 5])) == 3


def test_uniform_training_on_a_short_video_spreads():
    assert UNIFORM.train(8, np.random.default_rng(0)).tolist() == [i // 2 for i in range(16)]


@pytest.mark.parametrize("sampling", [DENSE, UNIFORM])
@pytest.mark.parametrize("num_frames", [1, 3, 15, 17, 64, 65])
def test_more_views_than_frames_stay_inside(sampling, num_frames):
    for view in range(5):
        frames = sampling.view(num_frames, view, 5)
        assert frames.shape == (16,) and frames.min() >= 0 and frames.max() < num_frames
        assert (np.diff(frames) >= 0).all()


def test_wrong_kind_and_view():
    with pytest.raises(ValueError, match="one of dense, uniform, window, tiled"):
        FrameSampling("random", 16)
    with pytest.raises(ValueError, match="view 2 of 2"):
        DENSE.view(300, 2, 2)
