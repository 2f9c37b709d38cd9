"""Data that are the same are known again, wherever they lie; data that are not are told apart, and how."""

import json
import shutil
from dataclasses import replace

import pytest

from sigma_jax.data import metadata, records
from sigma_jax.data.identity import differences, identify
from sigma_jax.data.records import Record
from sigma_jax.data.source import open_source

VIDEOS = [Record(bytes([n]) * (100 + n % 7), f"c{n % 3}/{n}.mp4", n % 3, num_frames=9) for n in range(40)]
NAMES = ["jump", "run", "walk"]


def write(folder, videos=VIDEOS, names=NAMES, num_shards=2, name="toy"):
    folder.mkdir()
    for shard in range(num_shards):
        with records.ShardWriter(folder / records.shard_name(name, "train", shard, num_shards)) as writer:
            for video in videos[shard::num_shards]:
                writer.write(video)
    metadata.write_label_map(folder, names)
    return identify(open_source(folder, "train"))


@pytest.fixture
def before(tmp_path):
    return json.loads(json.dumps(write(tmp_path / "before")))  # as a checkpoint gives it back


def test_a_copy_is_the_same_data(before, tmp_path):
    shutil.copytree(tmp_path / "before", tmp_path / "copy")
    (tmp_path / "copy" / "toy-train.index.npz").unlink()
    (tmp_path / "copy" / "run").mkdir()
    assert differences(before, identify(open_source(tmp_path / "copy", "train"))) == []
    assert differences(before, write(tmp_path / "renamed", name="other_name")) == []


@pytest.mark.parametrize(
    "changes,told",
    [
        ({"videos": [*VIDEOS, VIDEOS[0]]}, "records: 40 -> 41"),
        ({"videos": VIDEOS[:-2]}, "records: 40 -> 38"),
        ({"num_shards": 4}, "shards: 2 -> 4"),
        ({"videos": [replace(v, video=b"x" * len(v.video)) for v in VIDEOS]}, "records of the same sizes with other"),
        ({"videos": [replace(v, label=(v.label + 1) % 3) for v in VIDEOS]}, "records of the same sizes with other"),
        ({"videos": [*VIDEOS[:8], replace(VIDEOS[8], label=0), *VIDEOS[9:]]}, "records of the same sizes with other"),
        ({"videos": [VIDEOS[2], *VIDEOS[1:2], VIDEOS[0], *VIDEOS[3:]]}, "another order"),
        ({"names": ["run", "jump", "walk"]}, "another order (0 was 'jump' and is 'run'; 1 was 'run' and is 'jump')"),
        ({"names": [*NAMES, "swim"]}, "label map: 3 -> 4 classes (new 'swim')"),
        ({"names": ["jump", "run", "stroll"]}, "label map: 3 -> 3 classes (without 'walk'; new 'stroll')"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_data_are_told_apart(before, tmp_path, changes, told):
    (difference, *more) = differences(before, write(tmp_path / "now", **changes))
    assert told in difference and all(line.startswith("bytes:") for line in more)


def test_image_folders_and_damaged_records(before, tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        path = tmp_path / "images" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    now = identify(open_source(tmp_path / "images", "train"))
    assert now["records"] == 3 and now["classes"] == ["a", "b"]
    (tmp_path / "images/train/b/1.png").write_bytes(b"other")
    (difference,) = differences(now, identify(open_source(tmp_path / "images", "train")))
    assert "other content" in difference
    path = tmp_path / "before" / "toy-train-00000-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:60] + b"????" + path.read_bytes()[64:])  # within the first record
    assert "other content" in differences(before, identify(open_source(tmp_path / "before", "train")))[0]
