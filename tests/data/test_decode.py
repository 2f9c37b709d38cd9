"""Frames by number: the same with and without a seek, on ordinary and odd files; reasons for refusal."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from sigma_jax.data import decode, pictures
from sigma_jax.data.decode import BadVideo
from sigma_jax.datasets import payload
from tests.data import odd_videos

DATA = Path(__file__).parent
READABLE = sorted(p for p in DATA.glob("*/**/*") if p.suffix in {".mp4", ".webm"} and p.stem != "sample_audio_only")


def _all_frames(path: Path) -> list[np.ndarray]:
    """Decoded plainly, counting from the start; rotation not applied."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("path", READABLE, ids=lambda path: path.name)
def test_frames_are_those_counted_from_the_start(path):
    data, reference = path.read_bytes(), _all_frames(path)
    info = decode.probe(data)
    assert info.num_frames == len(reference)
    rng = np.random.default_rng(0)
    for _ in range(4):
        indices = np.sort(rng.integers(info.num_frames, size=5))[::-1]
        seeking = decode.decode_frames(data, indices, info.num_frames)
        np.testing.assert_array_equal(seeking, decode.decode_frames(data, indices))
        turns = 1 if "rotated" in path.name else 0
        np.testing.assert_array_equal(seeking, [np.rot90(reference[i], turns) for i in indices])
        assert seeking.shape[1:3] == (info.height, info.width)


@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_late_clip_does_not_decode_the_beginning(monkeypatch, b_frames):
    data = _encode(60, {"g": "10", "bf": str(b_frames)})
    indices = np.array([47, 49, 58])
    expected = decode.decode_frames(data, indices)
    monkeypatch.setattr(decode, "_decode_from_start", lambda *_: pytest.fail("decoded from the start"))
    np.testing.assert_array_equal(decode.decode_frames(data, indices, 60), expected)


def test_a_wrong_count_means_no_seek():
    data = _encode(60, {"g": "10"})
    expected = decode.decode_frames(data, np.array([50]))
    np.testing.assert_array_equal(decode.decode_frames(data, np.array([50]), 61), expected)


def _encode(count: int, options: dict[str, str]) -> bytes:
    file, rng = io.BytesIO(), np.random.default_rng(0)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height = stream.width = 48
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 48, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_probe_tells_size_after_rotation_and_lost_frames():
    rotated = decode.probe((DATA / "odd/nasa_13013_rotated.mp4").read_bytes())
    assert (rotated.num_frames, rotated.height, rotated.width) == (17, 480, 270)
    lossy = decode.probe((DATA / "odd/discard_first_keyframe.mp4").read_bytes())
    assert lossy.num_frames == 25 and lossy.warning == "30 frames declared, 25 decodable"
    webm = (DATA / "clips/sign/milk.webm").read_bytes()
    assert decode.probe(webm).warning == ""
    assert "declared seconds" in decode.probe(webm[: len(webm) // 2]).warning


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("one", "two"), [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_pictures_are_shown_as_the_display_matrix_says(turned, one, two):
    """All eight ways, point by point as the matrix is defined, by seeking, probing, and as prepare stores them."""
    a, b, c, d = (0, one, two, 0) if turned else (one, 0, 0, two)
    plain = odd_videos.video()
    stored = decode.decode_frames(plain, np.array([7]))[0]
    y, x = np.indices(stored.shape[:2])
    to_x, to_y = a * x + c * y, b * x + d * y
    expected = np.empty((np.ptp(to_y) + 1, np.ptp(to_x) + 1, 3), np.uint8)
    expected[to_y - to_y.min(), to_x - to_x.min()] = stored
    shown, seen = odd_videos.shown_by(plain, a, b, c, d), []
    info = decode.probe(shown, seen.append)
    assert (info.height, info.width) == expected.shape[:2]
    np.testing.assert_array_equal(seen[7], expected)
    np.testing.assert_array_equal(decode.decode_frames(shown, np.array([7]), info.num_frames)[0], expected)
    record, _ = payload.store(shown, payload.Payload("jpeg", quality=100))
    found = pictures.decode_images(record.frames[7:8])[0]
    assert np.abs(found.astype(int) - expected).mean() < 2


def test_a_void_display_matrix_turns_nothing():
    plain = odd_videos.video()
    np.testing.assert_array_equal(
        decode.decode_frames(odd_videos.shown_by(plain, 0, 0, 0, 0), np.array([3])),
        decode.decode_frames(plain, np.array([3])),
    )


def _streams(sizes: list[tuple[int, int]], defaults: set[int]) -> bytes:
    """An mp4 of several video streams (width, height); frames of stream i have grey level 40 + 50 i."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in sizes]
        for number, (stream, (width, height)) in enumerate(zip(streams, sizes, strict=True)):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number in defaults else 0
        for _ in range(6):
            for number, stream in enumerate(streams):
                picture = np.full((stream.height, stream.width, 3), 40 + 50 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return file.getvalue()


SMALL, LARGE = (32, 32), (96, 64)


@pytest.mark.parametrize(
    ("sizes", "defaults", "taken"),  # as `ffmpeg -i` chose among these
    [
        ([SMALL, LARGE], {0, 1}, 1),
        ([LARGE, SMALL], {0, 1}, 0),
        ([SMALL, SMALL], {0, 1}, 0),
        ([LARGE, SMALL], {1}, 1),
        ([SMALL, LARGE], {0}, 0),
    ],
)
def test_of_several_streams_the_one_that_ffmpeg_takes(sizes, defaults, taken):
    data = _streams(sizes, defaults)
    info = decode.probe(data)
    assert (info.width, info.height) == sizes[taken]
    names = [f"{number} ({width}x{height})" for number, (width, height) in enumerate(sizes)]
    assert info.warning == f"video stream {names[taken]} taken, not {names[1 - taken]}"
    frame = decode.decode_frames(data, np.array([5, 2]), 6)
    assert frame.shape == (2, info.height, info.width, 3) and abs(int(frame.mean()) - 40 - 50 * taken) < 4


@pytest.mark.parametrize("sizes", [[LARGE], [SMALL, LARGE]])
def test_streams_without_a_decoder_are_bad_videos_or_not_taken(sizes):
    data = _streams(sizes, set(range(len(sizes))))
    unknown = data[::-1].replace(b"avc1"[::-1], b"xq9z"[::-1], 1)[::-1]  # of the last stream
    if len(sizes) == 1:
        with pytest.raises(BadVideo, match="no decoder for this video codec"):
            decode.probe(unknown)
    else:
        info = decode.probe(unknown)
        assert (info.width, info.height) == SMALL and info.warning == "video stream 0 (32x32) taken, not 1 (0x0)"


def test_a_video_of_one_frame_is_flagged():
    assert decode.probe(_encode(1, {})).warning == "one frame: a picture, not a video"
    assert not decode.probe(_encode(2, {})).warning


@pytest.mark.parametrize("name", ["plain", "vfr", "vfr_mkv", "late_start", "vp9_vfr", "b_frames"])
def test_times_are_those_of_presentation(name):
    data = odd_videos.ODD[name]()
    with av.open(io.BytesIO(data)) as container:
        expected = [frame.time for frame in container.decode(video=0)]
    times = decode.probe(data).times
    np.testing.assert_allclose(times, expected)
    if "vfr" in name:
        even = np.linspace(times[0], times[-1], len(times))
        assert np.abs(np.array(times) - even).max() > 0.1


def test_the_clock_of_a_broadcast_does_not_count():
    data = odd_videos.video(container="mpegts", shift=1400)
    with av.open(io.BytesIO(data)) as container:
        assert container.start_time > 1e6
    assert decode.probe(data).times == pytest.approx(np.arange(40) / 25, abs=1e-3)


def test_times_without_timestamps_are_those_of_the_rate():
    assert decode.probe(odd_videos.ODD["avi"]()).times == pytest.approx(np.arange(40) / 25)


def test_bad_videos_are_named_by_reason():
    mp4 = (DATA / "clips/scene/nasa_13013.mp4").read_bytes()
    cases = {
        b"": "empty file",
        b"no video at all" * 20: "not readable",
        mp4[: len(mp4) // 2]: "decoding failed after|not readable",
        (DATA / "odd/sample_audio_only.mp4").read_bytes(): r"no video stream, only \['audio'\]",
    }
    for data, reason in cases.items():
        with pytest.raises(BadVideo, match=reason):
            decode.probe(data)
        with pytest.raises(BadVideo):
            decode.decode_frames(data, np.array([90]), 100)
    with pytest.raises(BadVideo, match="frame 100 asked for, but only 100"):
        decode.decode_frames(mp4, np.array([3, 100]))
