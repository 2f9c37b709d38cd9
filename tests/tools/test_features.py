"""Features of a folder of real videos in one command: windows, time stamps, restart, failures."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from sigma_jax.data.decode import probe
from sigma_jax.datasets.synthetic import write_videos
from sigma_jax.tools import features
from sigma_jax.weights.frozen import load
from sigma_jax.weights.weights_file import write_npz
from tests.data import odd_videos
from tests.weights.weights_samples import sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three rendered videos of 20 frames, one broken file, and weights of 16 frames of 32 x 32."""
    root = tmp_path_factory.mktemp("features")
    write_videos(root / "videos", seed=0, start=0, count=3, num_frames=20)
    (root / "videos" / "broken.mp4").write_bytes(b"no video")
    weights = sample("pretrain_dino_swav")
    weights.sizes.update(image_size=32)
    write_npz(root / "w.npz", weights)
    return root


def run(folder: Path, out: str, *options: str) -> int:
    paths = [f"--videos={folder / 'videos'}", f"--init={folder / 'w.npz'}", f"--out={folder / out}"]
    return features.main([*paths, "--batch_size=2", "--num_workers=1", *options])


def files(folder: Path, out: str) -> list[Path]:
    return sorted((folder / out).rglob("*.npz"))


def test_one_command_gives_features_with_time_stamps(folder, capsys):
    assert run(folder, "feats", "--stride=1", "--window_step=2") == 0
    assert "3 videos with features, 1 without" in capsys.readouterr().out
    line = json.loads((folder / "feats" / "failed.jsonl").read_text())
    assert line["key"] == "broken.mp4" and line["reason"]
    assert len(files(folder, "feats")) == 3
    for path in files(folder, "feats"):
        video = folder / "videos" / path.relative_to(folder / "feats").with_suffix("")
        times = np.array(probe(video).times)
        with np.load(path) as file:
            assert file["features"].shape == (3, 48) and file["features"].dtype == np.float32
            np.testing.assert_array_equal(file["frames"], [[0, 15], [2, 17], [4, 19]])
            np.testing.assert_allclose(file["seconds"], times[file["frames"]])


def test_the_numbers_are_those_of_the_api(folder):
    from sigma_jax.data.decode import decode_frames

    assert run(folder, "api", "--stride=1", "--pool=time") == 0
    path = files(folder, "api")[0]
    video = folder / "videos" / path.relative_to(folder / "api").with_suffix("")
    frames = decode_frames(video.read_bytes(), np.arange(4, 20))
    tokens = np.asarray(load(folder / "w.npz").features(frames[None], pool=False))
    with np.load(path) as file:
        assert file["features"].shape == (2, 8, 48)  # 20 frames: one window, and the one that ends with the video
        np.testing.assert_allclose(file["features"][1], tokens.reshape(8, -1, 48).mean(axis=1), atol=1e-5)


def test_finished_videos_are_skipped_and_other_settings_refused(folder, capsys):
    assert run(folder, "again") == 0
    first, *others = files(folder, "again")
    before = {path: path.stat().st_mtime_ns for path in others}
    first.unlink()
    assert run(folder, "again") == 0
    assert first.exists() and {path: path.stat().st_mtime_ns for path in others} == before
    assert run(folder, "again", "--pool=none") == 1
    assert "holds features made otherwise (settings.pool: 'mean' -> 'none')" in capsys.readouterr().err
    weights = sample("pretrain_dino_swav")
    heads = weights.sizes["num_heads"]
    weights.sizes.update(image_size=32, num_heads=2 * heads)  # the same arrays
    write_npz(folder / "more_heads.npz", weights)
    assert run(folder, "again", f"--init={folder / 'more_heads.npz'}") == 1
    assert f"(model.sizes.num_heads: {heads} -> {2 * heads})" in capsys.readouterr().err


def test_other_frame_counts_and_sizes(folder):
    assert run(folder, "small", "--num_frames=4", "--size=16", "--pool=none", "--stride=2") == 0
    with np.load(files(folder, "small")[0]) as file:
        assert file["features"].shape == (3, 2 * 2 * 2, 48)
        np.testing.assert_array_equal(file["frames"], [[0, 6], [8, 14], [13, 19]])


def test_seconds_are_those_at_which_frames_are_shown(folder):
    """Also of a video whose frames are shown at uneven times; frames / fps is off there."""
    name = "vfr/uneven.mkv"
    (folder / "uneven" / "vfr").mkdir(parents=True)
    (folder / "uneven" / name).write_bytes(odd_videos.ODD["vfr_mkv"]())
    paths = [f"--videos={folder / 'uneven'}", f"--init={folder / 'w.npz'}", f"--out={folder / 'uneven_feats'}"]
    assert features.main([*paths, "--stride=1", "--size=32"]) == 0
    with av.open(str(folder / "uneven" / name)) as container:
        shown = np.array([frame.time for frame in container.decode(video=0)])
    with np.load(folder / "uneven_feats" / f"{name}.npz") as file:
        np.testing.assert_allclose(file["seconds"], shown[file["frames"]], atol=1e-6)
        even = file["frames"] * shown[-1] / (len(shown) - 1)
        assert np.abs(file["seconds"] - even).max() > 0.1


def test_a_damaged_list_of_settings_is_named(folder, capsys):
    (folder / "damaged").mkdir()
    for text in ("{", "[]", '{"settings": 3}'):
        (folder / "damaged" / "features.json").write_text(text)
        assert run(folder, "damaged") == 1
        assert "damaged/features.json is damaged" in capsys.readouterr().err


def test_what_is_wrong_is_said(folder, capsys, tmp_path):
    assert features.main([f"--videos={tmp_path}", "--init=w", "--out=o"]) == 1
    assert "no video files in it" in capsys.readouterr().err
    assert features.main([f"--videos={folder / 'videos'}", f"--init={tmp_path}/absent", "--out=o"]) == 1
    assert "no weights at" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(folder, "x", "--stride=0")
