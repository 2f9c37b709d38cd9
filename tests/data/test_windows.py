"""Windows of long videos: which frames they have, in one pass, in little memory, and how reading them ends."""

import io
import threading

import av
import numpy as np
import pytest

from sigma_jax.data import decode, windows
from sigma_jax.data.augment import center_crop_resize
from sigma_jax.data.windows import End, WindowSpec, read_windows
from tests.data import odd_videos

SPECS = [WindowSpec(4, 2, 3, 16), WindowSpec(4, 3, 10, 16), WindowSpec(16, 4, 64, 16), WindowSpec(3, 1, 1, 16)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Files of 40 frames, one that cannot be decoded, and a missing one."""
    folder = tmp_path_factory.mktemp("windows")
    paths = [folder / name for name in ("plain.mp4", "vfr.mp4", "avi.avi", "bad.mp4", "absent.mp4")]
    for path, kind in zip(paths, ("plain", "vfr", "avi"), strict=False):
        path.write_bytes(odd_videos.ODD[kind]())
    paths[3].write_bytes(b"no video")
    return paths


@pytest.mark.parametrize(
    ("frames", "span", "step", "starts"),
    [(20, 16, 2, [0, 2, 4]), (21, 16, 4, [0, 4, 5]), (16, 16, 99, [0]), (5, 16, 4, [0]), (40, 16, 16, [0, 16, 24])],
)
def test_windows_cover_the_whole_video(frames, span, step, starts):
    assert WindowSpec(span, 1, step, 16).starts(frames) == starts


def _collect(paths, spec, threads=2):
    clips, ends = {}, {}
    for result in read_windows(paths, spec, threads):
        if isinstance(result, End):
            ends[result.video] = result
        else:
            assert result.video not in ends
            clips[result.video, result.start] = result.clip
    return clips, ends


def _check(paths, spec, clips, ends):
    for number, path in enumerate(paths):
        frames = []
        info = decode.probe(path, lambda frame, frames=frames: frames.append(frame.copy()))
        small = center_crop_resize(np.stack(frames), spec.size)
        assert list(ends[number].starts) == spec.starts(len(frames))
        expected = spec.frames(ends[number].starts, len(frames))
        for start, indices in zip(ends[number].starts, expected, strict=True):
            np.testing.assert_array_equal(clips[number, start], small[indices])
        np.testing.assert_array_equal(ends[number].frames, expected[:, [0, -1]])
        np.testing.assert_array_equal(ends[number].seconds, np.array(info.times)[expected[:, [0, -1]]])


@pytest.mark.parametrize("spec", SPECS)
def test_windows_are_those_of_the_decoded_video(videos, spec):
    clips, ends = _collect(videos, spec)
    assert isinstance(ends[3].error, decode.BadVideo) and isinstance(ends[4].error, OSError)
    _check(videos[:3], spec, clips, ends)


@pytest.mark.parametrize("wrong", [-40, -7, -1, 1, 30])
def test_packets_that_are_not_frames_change_nothing(videos, wrong, monkeypatch):
    monkeypatch.setattr(windows, "count_packets", lambda path: decode.count_packets(path) + wrong)
    for spec in SPECS:
        _check(videos[:1], spec, *_collect(videos[:1], spec))


def test_a_video_is_decoded_once_and_few_pictures_are_held(tmp_path, monkeypatch):
    file, count, held, decoded = io.BytesIO(), 600, [], []
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height = stream.width = 32
        for number in range(count):
            picture = np.full((32, 32, 3), number % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "long.mp4").write_bytes(file.getvalue())
    frames, add = decode._frames, windows._Cutter.add
    monkeypatch.setattr(decode, "_frames", lambda *args: (decoded.append(1) or frame for frame in frames(*args)))

    def counted(cutter, picture):
        yield from add(cutter, picture)
        held.append(len(cutter._pictures))

    monkeypatch.setattr(windows._Cutter, "add", counted)
    monkeypatch.setattr(windows, "_WAITING_BYTES", 1)  # one window waits at a time
    spec = WindowSpec(4, 4, 16, 16)
    clips, ends = _collect([tmp_path / "long.mp4"], spec)
    assert len(clips) == len(ends[0].starts) == 38 and len(decoded) == count
    assert max(held) <= spec.num_frames + 4  # the last window begins before the one before it has ended


def test_readers_end_with_whoever_takes_their_windows(videos, monkeypatch):
    monkeypatch.setattr(windows, "_WAITING_BYTES", 1)
    before = set(threading.enumerate())
    results = read_windows(videos[:3] * 3, WindowSpec(3, 1, 1, 16), 3)
    next(results)
    results.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
    assert set(threading.enumerate()) <= before


def test_a_fault_in_a_reader_is_raised(videos, monkeypatch):
    monkeypatch.setattr(windows, "count_packets", lambda path: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        _collect(videos, SPECS[0])
