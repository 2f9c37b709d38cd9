"""Every decoder gives the frames that counting from the start gives, on odd timestamps too; unknown ones are named."""

import functools
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from sigma_jax.data import decode, decoders
from sigma_jax.data.decoders import Decoding
from tests.data import odd_videos

INDICES = np.array([33, 2, 17, 18, 18, 25])


@functools.cache
def _odd(name: str) -> tuple[bytes, np.ndarray]:
    """A video and all its frames, counted from the start."""
    data = odd_videos.ODD[name]()
    frames = []
    decode.probe(data, frames.append)
    return data, np.stack(frames)


def _installed(decoder: str) -> str:
    if decoder != "pyav" and importlib.util.find_spec(decoder) is None:
        pytest.skip(f"{decoder} is not installed")
    return decoder


@pytest.mark.parametrize("name", odd_videos.ODD)
@pytest.mark.parametrize("decoder", [name for name in decoders.DECODERS if name != "auto"])
def test_frames_have_the_same_numbers(name, decoder):
    data, frames = _odd(_installed(decoder) and name)
    expected = frames[INDICES]
    assert np.abs(np.diff(frames.max(axis=(1, 2, 3)).astype(int))).min() > 20  # neighbours are told apart
    found = decoders.decode_frames(data, INDICES, len(frames), decoder)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() < 8


def test_odd_files_are_odd():
    lengths = {name: len(_odd(name)[1]) for name in odd_videos.ODD}
    hidden = {name for name, length in lengths.items() if length < odd_videos.COUNT}
    assert hidden == {"negative_start", "edit_list_in_b_frames", "negative_start_vfr", "rotated_270"}
    upright = {name: frames.shape[1:3] for name in odd_videos.ODD for frames in [_odd(name)[1]]}
    assert {name for name, size in upright.items() if size == (64, 48)} == {
        "rotated",
        "rotated_270",
        "mirrored_and_rotated",
    }
    corner = [_odd(name)[1][0].mean(axis=2) for name in ("plain", "rotated", "rotated_180")]
    assert corner[0][0, 0] < 20 + corner[0][-1, -1] / 2  # dark corner: top left, top right, bottom right
    assert corner[1][0, -1] == pytest.approx(corner[0][0, 0], abs=4)
    assert corner[2][-1, -1] == pytest.approx(corner[0][0, 0], abs=4)


def test_what_others_may_show_otherwise_is_not_plain():
    names = ("plain", "rotated_180", "mirrored", "mirrored_and_rotated", "negative_start", "avi")
    plain = [name for name in names if decode.is_plain(_odd(name)[0], len(_odd(name)[1]), {"h264", "mpeg4"})]
    assert plain == ["plain", "rotated_180"]


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_other_decoders_are_used_where_they_are_exact_and_only_there(decoder, monkeypatch):
    _installed(decoder)
    asked = []
    plain = decode.decode_frames
    monkeypatch.setattr(decode, "decode_frames", lambda data, *rest: (asked.append(data), plain(data, *rest))[1])
    for name in odd_videos.ODD:
        data, frames = _odd(name)
        decoders.decode_frames(data, np.array([3]), len(frames), decoder)
        if name in ("plain", "b_frames", "vfr", "vfr_mkv", "late_start", "vp9", "vp8", "rotated_180"):
            assert data not in asked, f"{name} went to PyAV"
        if name in ("hevc", "avi", "negative_start", "mirrored", "mirrored_and_rotated"):
            assert data in asked, f"{decoder} decoded {name}"
    data, frames = _odd("plain")
    asked.clear()
    np.testing.assert_array_equal(decoders.decode_frames(data, np.array([3]), len(frames) + 1, decoder)[0], frames[3])
    assert asked == [data]  # it counts other frames than the record
    with pytest.raises(decode.BadVideo):
        decoders.decode_frames(data[:2000], np.array([3]), 40, decoder)


def test_an_unknown_or_missing_decoder_is_an_error_that_says_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match="'ffmpeg' is unknown, expected one of auto, pyav, decord, torchcodec"):
        Decoding("ffmpeg")
    with pytest.raises(ValueError, match="decode_timeout=-1 must be at least 0"):
        Decoding(timeout=-1)
    monkeypatch.setitem(decoders.DECODERS, "no_such_package", lambda *_: None)
    with pytest.raises(ValueError, match=r"'no_such_package' cannot be used .*: pip install no_such_package, or"):
        Decoding("no_such_package")
    monkeypatch.setitem(sys.modules, "no_ffmpeg", SimpleNamespace(ffmpeg_major_version=None))
    monkeypatch.setitem(decoders.DECODERS, "no_ffmpeg", lambda *_: None)
    with pytest.raises(
        ValueError, match=r"'no_ffmpeg' cannot be used \(it finds no FFmpeg libraries\): mend its installation, or"
    ):
        Decoding("no_ffmpeg")
