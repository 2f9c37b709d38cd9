"""Small shard sets of synthetic clips, written once."""

from pathlib import Path

import pytest

from sigma_jax.data import decode, records
from sigma_jax.datasets import synthetic

NUM_CLIPS = 23


@pytest.fixture(scope="session")
def clip_files(tmp_path_factory) -> list[Path]:
    """23 video files of 8 frames, 32x32."""
    folder = tmp_path_factory.mktemp("videos")
    synthetic.write_videos(folder, seed=7, start=0, count=NUM_CLIPS, labelled=False)
    return sorted(folder.iterdir())


@pytest.fixture
def shards(tmp_path, clip_files) -> Path:
    """A fresh data set in two shards, labels 0..4 repeating and one video without a class."""
    data_dir = tmp_path / "shards"
    data_dir.mkdir()
    for shard in range(2):
        with records.ShardWriter(data_dir / records.shard_name("toy", "train", shard, 2)) as writer:
            for number, path in list(enumerate(clip_files))[shard::2]:
                label, video = -1 if number == 0 else number % 5, path.read_bytes()
                num_frames = decode.probe(video).num_frames
                writer.write(records.Record(video, path.name, label, f"class {label}", num_frames))
    return data_dir
