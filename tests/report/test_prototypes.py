"""Top tubes of prototypes: planted tubes come first, and the picture shows their pixels."""

import numpy as np
import pytest
from PIL import Image

from sigma_jax.report import style
from sigma_jax.report.prototypes import most_used, top_tubes, write_prototypes

TUBE = (2, 8, 8)


def _clips(num=4):
    """Dark clips of 2 x 3 x 3 tubes."""
    return np.random.default_rng(0).integers(0, 40, (num, 4, 24, 24, 3)).astype(np.uint8)


def _scores(num=4, num_prototypes=5):
    return np.random.default_rng(1).uniform(-1, 0.5, (num, 18, num_prototypes)).astype(np.float32)


def test_a_planted_tube_comes_first():
    scores = _scores()
    scores[2, 11, 3] = 1
    clips, positions = top_tubes(scores[..., 3], 6)
    assert (clips[0], positions[0]) == (2, 11)
    values = scores[clips, positions, 3]
    assert (np.diff(values) <= 0).all()
    assert np.bincount(clips).max() <= 2


def test_few_clips_give_more_tubes_each():
    clips, positions = top_tubes(_scores(num=1)[..., 0], 7)
    np.testing.assert_array_equal(positions, np.argsort(-_scores(num=1)[0, :, 0])[:7])
    assert len(top_tubes(_scores(num=1)[..., 0], 50)[0]) == 18


def test_most_used_first_and_none_unused():
    nearest = np.array([[2, 2, 2], [0, 4, 2]])
    ids, shares = most_used(np.eye(5)[nearest], 4)
    np.testing.assert_array_equal(ids, [2, 0, 4])
    np.testing.assert_allclose(shares, [4 / 6, 1 / 6, 1 / 6])


def _pixels(tmp_path, video, scores, **limits):
    return np.asarray(Image.open(write_prototypes(tmp_path / "p.png", video, scores, TUBE, **limits)))


def test_picture_shows_the_planted_pixels(tmp_path):
    video, scores = _clips(), np.full((4, 18, 2), -1.0, np.float32)
    video[1, 2:4, 8:16, 16:24] = (10, 250, 10)  # time step 1, row 1, column 2: tube 14
    scores[1, 14, 0] = 1

    def greens(scores, **rest):
        return (_pixels(tmp_path, video, scores, max_prototypes=1, max_tubes=1, **rest) == (10, 250, 10)).all(-1).sum()

    unit = 48**2  # a third of 144 px
    assert 0.7 * unit < greens(scores) < unit  # less the frame around it
    assert greens(np.roll(scores, -9, axis=1)) == 0  # the same place, one time step earlier
    assert greens(np.roll(scores, 2, axis=1)) > greens(scores)  # a neighbour: seen, but the frame is elsewhere
    assert greens(scores[:, 9:], tube_idx=np.tile(np.arange(9, 18), (4, 1))) == greens(scores)


def test_limits_choose_rows_and_columns(tmp_path):
    shapes = [
        _pixels(tmp_path, _clips(), _scores(), max_prototypes=rows, max_tubes=columns).shape
        for rows, columns in ((2, 3), (4, 3), (2, 5))
    ]
    assert shapes[1][0] > shapes[0][0] and shapes[1][1] == shapes[0][1]
    assert shapes[2][1] > shapes[0][1] and shapes[2][0] == shapes[0][0]


def test_frames_smaller_than_the_surroundings(tmp_path):
    video = np.zeros((1, 2, 8, 16, 3), np.uint8)
    pixels = _pixels(tmp_path, video, np.array([[[0.1], [0.9]]]))
    assert pixels.min() == 0 and (pixels == 255).all(-1).any()


@pytest.mark.parametrize(
    "scores, tube_idx, message",
    [
        (_scores()[:, :9], None, "all 18 tubes"),
        (_scores(num=3), np.zeros((3, 18), int), "for 4 clips"),
        (_scores(), np.full((4, 18), 18), r"tube_idx spans 18..18; expected 0..17"),
    ],
)
def test_bad_input_is_named(tmp_path, scores, tube_idx, message):
    with pytest.raises(ValueError, match=message):
        write_prototypes(tmp_path / "p.png", _clips(), scores, TUBE, tube_idx=tube_idx)


def test_cells_have_equal_size_everywhere():
    from sigma_jax.report.prototypes import _draw_tube

    clip, grid = _clips()[0], (2, 3, 3)
    sizes = {_draw_tube(clip, tube, grid, TUBE).size for tube in range(18)}
    assert sizes == {(144, 144)} and style.fit(clip[0], 144).size == (144, 144)
