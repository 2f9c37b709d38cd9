"""Pictures of clips: the mask decides exactly which pixels are grey."""

import numpy as np
import pytest
from PIL import Image

from sigma_jax.report import style
from sigma_jax.report.clips import hide_tubes, write_animation, write_clips

TUBE = (2, 8, 8)


def _clips(num=3, frames=4, size=16):
    return np.random.default_rng(0).integers(0, 200, (num, frames, size, size, 3)).astype(np.uint8)


def _mask(hidden, num=3):
    mask = np.zeros((num, 8), bool)
    mask[:, hidden] = True
    return mask


def test_one_hidden_tube_is_one_grey_box():
    video = _clips()
    hidden = hide_tubes(video, _mask([5]), TUBE)  # second time step, first row, second column
    is_grey = (hidden == style.HIDDEN).all(axis=-1)
    expected = np.zeros(video.shape[:-1], bool)
    expected[:, 2:4, 0:8, 8:16] = True
    np.testing.assert_array_equal(is_grey, expected)
    np.testing.assert_array_equal(hidden[~expected], video[~expected])


def test_picture_shows_the_mask(tmp_path):
    video = _clips()

    def grey_share(hidden):
        path = write_clips(tmp_path / "clips.png", video, _mask(hidden), TUBE)
        return (np.asarray(Image.open(path)) == style.HIDDEN).all(axis=-1).sum()

    cell = 160**2  # 16 px enlarged by 10
    one_tube = 3 * 2 * cell // 4  # 3 clips, 2 of 4 frames, a quarter of the frame
    assert grey_share([]) < 0.01 * one_tube  # no more than edges of letters
    assert grey_share([0]) == pytest.approx(one_tube, rel=0.01)
    assert grey_share(range(8)) == pytest.approx(8 * one_tube, rel=0.01)


def test_limits_choose_clips_and_frames(tmp_path):
    video = _clips(num=6, frames=16)
    mask = np.zeros((6, 32), bool)
    sizes = [
        Image.open(write_clips(tmp_path / "c.png", video, mask, TUBE, max_clips=clips, max_frames=frames)).size
        for clips, frames in ((2, 4), (2, 8), (3, 4))
    ]
    assert sizes[1][0] > sizes[0][0] and sizes[1][1] == sizes[0][1]
    assert sizes[2][1] > sizes[0][1] and sizes[2][0] == sizes[0][0]


def test_animation_has_every_frame(tmp_path):
    video = np.zeros((2, 4, 16, 16, 3), np.uint8)
    video[:, :, ..., 0] = np.array([0, 80, 160, 240])[None, :, None, None]
    image = Image.open(write_animation(tmp_path / "clips.gif", video, _mask([0], num=2), TUBE))
    assert image.n_frames == 4 and image.info["loop"] == 0
    for frame, red in enumerate((0, 80, 160, 240)):
        image.seek(frame)
        pixels = np.asarray(image.convert("RGB")).astype(int)
        assert abs(pixels[100, 100, 0] - red) <= 8
        is_grey = np.abs(pixels[style.GAP + 160 + 20, 20] - style.HIDDEN).max() <= 8
        assert is_grey == (frame < 2)


def test_large_frames_shrink_and_keep_their_shape():
    assert style.fit(np.zeros((240, 320, 3), np.uint8), 160).size == (160, 120)
    assert style.fit(np.zeros((48, 64, 3), np.uint8), 160).size == (128, 96)


@pytest.mark.parametrize(
    "video, mask, message",
    [
        (_clips(size=12), _mask([]), "not a multiple"),
        (_clips().astype(np.float32), _mask([]), "expected uint8"),
        (_clips(), _mask([], num=2), r"expected bool \(3, 8\)"),
        (_clips(), _mask([]).astype(int), "mask is int64"),
    ],
)
def test_bad_input_is_named(video, mask, message):
    with pytest.raises(ValueError, match=message):
        hide_tubes(video, mask, TUBE)
