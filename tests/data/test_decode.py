"""Frames by number: the same with and without a seek, on ordinary and odd files; reasons for refusal."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from sigma_jax.data import decode
from sigma_jax.data.decode import BadVideo

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
