"""Folders of pictures: which of them are the frames, in which order, and what is missing."""

import pytest

from sigma_jax.data.decode import BadVideo
from sigma_jax.datasets.frame_folders import choose_frames, folder_stamp, list_frames


def _make(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    "pattern", ["img_{:05d}.jpg", "image_{}.PNG", "frame{:06d}.jpeg", "{:05d}.jpg", "v2_{}_rgb.webp"]
)
@pytest.mark.parametrize("first", [0, 1])
def test_numbering(tmp_path, pattern, first):
    names = [pattern.format(number) for number in range(first, first + 12)]
    _make(tmp_path, *names, "notes.txt", ".img_00099.jpg")
    paths, warning = choose_frames(tmp_path)
    assert [path.name for path in paths] == names and not warning
    assert [path.name for path in choose_frames(tmp_path, first + 3, 2)[0]] == names[3:5]


def test_flow_beside_the_pictures_is_left_alone(tmp_path):
    _make(tmp_path, *(f"{kind}_0000{n}.jpg" for kind in ("img", "flow_x", "flow_y", "x", "y") for n in (1, 2)))
    assert [path.name for path in choose_frames(tmp_path)[0]] == ["img_00001.jpg", "img_00002.jpg"]


@pytest.mark.parametrize(
    ("numbers", "warning"),
    [
        ([1, 2, 4, 8], "no pictures with the numbers 3, 5..7"),
        ([3, 4], "no pictures with the numbers 1..2"),
        ([0, 10, 20], "only every 10th picture is there, from number 0 on"),
        ([7], "no pictures with the numbers 1..6"),
        (range(0, 60, 7), "only every 7th picture is there, from number 0 on"),
    ],
)
def test_gaps_are_named(tmp_path, numbers, warning):
    assert choose_frames(_make(tmp_path, *(f"img_{number}.jpg" for number in numbers)))[1] == warning


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a_1.jpg", "b_1.jpg"], r"pictures of 2 series, a_\*, b_\*: keep those of one"),
        (["img_1.jpg", "cover.jpg"], "2 series, cover.jpg, img"),
        (["cover.jpg"], "cover.jpg has no number"),
        (["img_1.jpg", "img_01.jpg"], "have the same number"),
        (["img_1.jpg", "img_1.png"], "have the same number"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(tmp_path, names, reason):
    with pytest.raises(BadVideo, match=reason):
        list_frames(_make(tmp_path, *names))


def test_a_stamp_knows_the_pictures(tmp_path):
    before = folder_stamp(_make(tmp_path, "img_1.jpg"))
    (tmp_path / "img_1.jpg").write_bytes(b"x")
    assert folder_stamp(tmp_path) != before
    assert folder_stamp(_make(tmp_path, "notes.txt")) == folder_stamp(tmp_path)
