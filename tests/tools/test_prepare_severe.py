"""SEVERE's lists through the command: subsets, annotations that do not fit their videos, and what the report says."""

import json

import pytest

from sigma_jax.data.annotations import Cycles, decode
from sigma_jax.data.metadata import read_problems
from sigma_jax.data.source import open_source
from sigma_jax.datasets.synthetic import write_videos
from sigma_jax.tools import prepare


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five clips of 8 frames, 000000.mp4 ... 000004.mp4."""
    folder = tmp_path_factory.mktemp("severe") / "videos"
    write_videos(folder, seed=0, start=0, count=5, labelled=False, size=16)
    return folder


def test_a_relabelled_subset_that_is_not_complete(videos, tmp_path, capsys):
    lines = ["000000.mp4 16", "000001.mp4 3", "gone.mp4 9", "000002.mp4 6", "000003.mp4 98"]
    (tmp_path / "gym99_val.txt").write_text("\n".join(lines))
    command = [f"--videos={videos}", f"--csv={tmp_path / 'gym99_val.txt'}", "--format=gym99", "--subset=fx_s1"]
    assert prepare.main([*command, "--split=val", f"--out={tmp_path / 'out'}", "--workers=0"]) == 0
    source = open_source(tmp_path / "out", "val")
    assert [(source[i].key, source[i].label) for i in range(len(source))] == [("000000.mp4", 10), ("000002.mp4", 0)]
    subset = json.loads((tmp_path / "out/prepare_report.json").read_text())["val"]["subset"]
    assert (subset["name"], subset["rows"], subset["labels"]) == ("fx_s1", [0, 2, 3], [10, 3, 0])
    problems = read_problems(tmp_path / "out", ["val"])
    assert "5 lines, the released list 8,521" in problems[0]
    assert "3 lines of gym99_val.txt belong to fx_s1, expected 777" in problems[1]
    assert "1 of 3 videos are missing or unusable, the first: gone.mp4: line 3 of gym99_val.txt" in problems[2]
    printed = capsys.readouterr().out
    assert "val: 2 videos of 777 expected" in printed and printed.count("INCOMPLETE subset fx_s1") == 3


def test_subsets_need_their_list(videos, tmp_path, capsys):
    assert prepare.main([f"--videos={videos}", "--subset=fx_s1", f"--out={tmp_path / 'out'}"]) == 2
    assert "--subset=fx_s1 is a part of a released list" in capsys.readouterr().err


def test_cycles_beyond_the_end_of_a_video_are_refused(videos, tmp_path):
    text = ""
    for name, bounds in (("000000", "1 4 8"), ("000001", "1 4 9"), ("000002", "4 1 8"), ("000003", "1 8")):
        text += f"v{name}\n{bounds}\n"
        (videos / f"v{name}.mp4").write_bytes((videos / f"{name}.mp4").read_bytes())
    (tmp_path / "Shapes.txt").write_text(text)
    command = [f"--videos={videos}", f"--csv={tmp_path / 'Shapes.txt'}", "--format=ucfrep", f"--out={tmp_path / 'out'}"]
    assert prepare.main([*command, "--workers=0", "--max_refused=1"]) == 0
    source = open_source(tmp_path / "out", "train")
    assert len(source) == 1 and decode(source[0].annotation) == Cycles((0, 3, 7), "line 1 of Shapes.txt")
    refused = json.loads((tmp_path / "out/prepare_report.json").read_text())["train"]["refused"]
    told = {item["key"]: item["reason"] for item in refused}
    assert "line 3 of Shapes.txt: the video is shorter than its annotation: 8 frames" in told["v000001"]
    assert "line 5 of Shapes.txt: boundaries out of order: 0 follows 3" in told["v000002"]
    assert "line 7 of Shapes.txt: 1 cycles between 2 boundaries" in told["v000003"]
