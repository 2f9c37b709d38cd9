"""SEVERE's parts of released lists: the draw, relabelling, and what makes them incomplete."""

import numpy as np
import pytest

from sigma_jax.datasets.classes import shipped_names
from sigma_jax.datasets.list_formats import ListSpec, read_list
from sigma_jax.datasets.subsets import SUBSETS, choose, draw_samples
from sigma_jax.runtime.errors import InvalidValue


def _gym(tmp_path, labels, missing=()):
    lines = [f"clip{i:03d}.avi {label}" for i, label in enumerate(labels)]
    (tmp_path / "gym99_train.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "videos").mkdir()
    for i in set(range(len(labels))) - set(missing):
        (tmp_path / f"videos/clip{i:03d}.avi").touch()
    return tmp_path / "gym99_train.txt", tmp_path / "videos"


def test_a_missing_file_changes_nothing_but_itself(tmp_path):
    labels = np.random.default_rng(1).integers(0, 99, 2000)
    path, videos = _gym(tmp_path, labels)
    found, _ = read_list("gym99", ListSpec(path, videos, "train", subset="gym_1000"))
    rows = found.subset["rows"]
    assert len(rows) == 99 * 11 and rows == draw_samples(labels, 1000).tolist()
    assert [entry.key for entry in found.entries] == [f"clip{row:03d}.avi" for row in rows]
    assert not found.refused and "SHA-256 of the released list is not known" in found.subset["list_checked_by"]
    assert found.subset["problems"] == [
        "gym99_train.txt has 2,000 lines, the released list 20,484: other lines are drawn"
    ]  # although each class has enough for as many samples
    (videos / f"clip{rows[0]:03d}.avi").unlink()
    again, _ = read_list("gym99", ListSpec(path, videos, "train", subset="gym_1000"))
    assert again.subset == found.subset and again.entries == found.entries[1:]
    assert f"line {rows[0] + 1} of gym99_train.txt: no such file" in again.refused[0].reason


def test_relabelling_keeps_the_order_of_the_list(tmp_path):
    path, videos = _gym(tmp_path, [5, 6, 16, 17, 88, 74, 10])
    found, names = read_list("gym99", ListSpec(path, videos, "val", subset="fx_s1"))
    assert [(entry.key, entry.label) for entry in found.entries] == [
        ("clip001.avi", "0"), ("clip002.avi", "10"), ("clip006.avi", "4"),
    ]  # fmt: skip
    assert names == [] and "7 lines, the released list 8,521" in found.subset["problems"][0]
    assert "3 lines of gym99_train.txt belong to fx_s1, expected 777" in found.subset["problems"][1]
    (tmp_path / "names").write_text("\n".join(shipped_names("gym99")))
    found, names = read_list("gym99", ListSpec(path, videos, "val", tmp_path / "names", "ub_s1"))
    assert names == shipped_names("ub_s1") == shipped_names("gym99")[74:89]
    assert [entry.label for entry in found.entries] == [names[14], names[0]]


def test_lists_of_other_data_sets_are_refused(tmp_path):
    path, videos = _gym(tmp_path, [1, 99])
    with pytest.raises(InvalidValue, match="line 2 of .*label '99' is none of the 99 classes of gym99"):
        read_list("gym99", ListSpec(path, videos, "train", subset="gym_1000"))
    with pytest.raises(InvalidValue, match="drawn from lists in the format 'ucf101', not 'gym99'"):
        read_list("gym99", ListSpec(path, videos, "train", subset="ucf_1000"))
    path.write_text("clip000.avi 1\n")
    with pytest.raises(InvalidValue, match="no line has a class of the subset"):
        read_list("gym99", ListSpec(path, videos, "train", subset="fx_s1"))
    path.write_text("id,actions\n000001\n")  # no line that the format knows
    with pytest.raises(InvalidValue, match="no line has a class of the subset.*labels are none"):
        read_list("gym99", ListSpec(path, videos, "train", subset="gym_1000"))


def test_classes_of_ucf101_are_in_its_own_order(tmp_path):
    """The official order is not that of the alphabet: JumpingJack is before JumpRope."""
    (tmp_path / "list.txt").write_text("JumpRope/a.avi 1\nJumpingJack/b.avi 1\n")
    for name in ("JumpRope/a.avi", "JumpingJack/b.avi"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    found, names = read_list("ucf101", ListSpec(tmp_path / "list.txt", tmp_path, "train", subset="ucf_1000"))
    assert found.subset["rows"] == [1, 0] and found.subset["labels"] == [46, 47] and len(names) == 101
    assert any("is not the released list" in problem for problem in found.subset["problems"])


def test_only_the_training_split_is_drawn():
    labels = np.repeat(np.arange(99), 30)
    assert len(choose(SUBSETS["gym_1000"], labels, "val")[0]) == len(labels)
    assert len(choose(SUBSETS["gym_1000"], labels, "train")[0]) == 1089
