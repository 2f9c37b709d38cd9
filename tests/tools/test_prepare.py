"""Folders and lists become shards; every refusal is named with its reason."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from sigma_jax.data import records
from sigma_jax.datasets import classes, payload, preparing, specs, synthetic
from sigma_jax.runtime.folder_lock import owned
from sigma_jax.tools import prepare

DATA = Path(__file__).parents[1] / "data"


def _prepare(out, **flags):
    return prepare.main([f"--out={out}", "--workers=0", *(f"--{name}={value}" for name, value in flags.items())])


def _report(out, split="train"):
    return json.loads((out / "prepare_report.json").read_text())[split]


def _refused(out):
    """{key: reason} of the videos that were refused."""
    return {item["key"]: item["reason"] for item in _report(out)["refused"]}


def _assert_refused(out, expected):
    """Exactly these, for reasons with these words in them."""
    refused = _refused(out)
    assert refused.keys() == expected.keys()
    assert all(expected[key] in reason for key, reason in refused.items())


def _read(out, split="train"):
    source = records.RecordSource(out, split)
    return [source[i] for i in range(len(source))]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    synthetic.write_videos(folder, seed=0, start=0, count=6, labelled=False)
    for path, name in zip(sorted(folder.iterdir()), ["a", "b c", "-d", "e,f", "g", "h"], strict=True):
        path.rename(folder / f"{name}.mp4")
    return folder


def test_processes_that_read_videos_import_nothing_slow():
    code = "import sys, sigma_jax.tools.prepare; print(*{'jax', 'tensorflow_datasets'} & sys.modules.keys())"
    slow = subprocess.check_output([sys.executable, "-c", code], cwd=Path(__file__).parents[2], text=True)
    assert slow == "\n"


def test_class_folders_become_labels(tmp_path, capsys):
    assert _prepare(tmp_path, videos=DATA / "clips", name="real", shards=2) == 0
    found = {record.key: record for record in _read(tmp_path)}
    assert {key: record.label for key, record in found.items()} == {
        "scene/corridor_walk.mp4": 0,
        "scene/fruit_conveyor.mp4": 0,
        "scene/nasa_13013.mp4": 0,
        "sign/hungry.webm": 1,
        "sign/milk.webm": 1,
    }
    milk = found["sign/milk.webm"]
    assert (milk.label_name, milk.num_frames, milk.height, milk.width, milk.fps) == ("sign", 51, 240, 320, 30.0)
    assert milk.video == (DATA / "clips/sign/milk.webm").read_bytes()
    assert (tmp_path / "label_map.txt").read_text() == "scene\nsign\n"
    names = {path.name for path in tmp_path.glob("*.tfrecord")}
    assert names == {"real-train-00000-of-00002.tfrecord", "real-train-00001-of-00002.tfrecord"}
    assert "5 videos in 2 shards" in capsys.readouterr().out
    assert _report(tmp_path)["videos_per_class"] == {"scene": 3, "sign": 2}


def test_odd_files_are_refused_by_reason_or_accepted(tmp_path, capsys):
    folder, out = tmp_path / "odd", tmp_path / "out"
    shutil.copytree(DATA / "odd", folder)
    (folder / "empty.webm").touch()
    (folder / "notes.txt").write_text("not a video")
    (folder / ".hidden.mp4").write_text("not a video")
    nasa = (DATA / "clips/scene/nasa_13013.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(nasa[: len(nasa) * 2 // 3])
    os.symlink(folder / "nowhere", folder / "dangling.mp4")
    assert _prepare(out, videos=folder, max_refused=0.6) == 0
    expected = {
        "-video-with-dash-.mp4": "too small: 1x1",
        "cut.mp4": "decoding failed after",
        "dangling.mp4": "No such file",
        "empty.webm": "empty file",
        "one_pixel.mp4": "too small: 1x1",
        "sample_audio_only.mp4": "no video stream, only ['audio']",
    }
    _assert_refused(out, expected)
    accepted = {record.key: (record.num_frames, record.label) for record in _read(out)}
    assert accepted == {
        "discard_first_keyframe.mp4": (25, -1),
        "nasa_13013_rotated.mp4": (17, -1),
        "sample_android_slow_motion.mp4": (7, -1),
        "test_non_zero_start.mp4": (12, -1),
    }
    assert [item["key"] for item in _report(out)["warnings"]] == ["discard_first_keyframe.mp4"]
    assert _report(out)["other_files"] == ["notes.txt"]
    printed = capsys.readouterr().out
    assert all(key in printed for key in [*expected, "discard_first_keyframe.mp4"])


@pytest.mark.skipif("SIGMA_ODD_FILES" not in os.environ, reason="SIGMA_ODD_FILES names no folder")
def test_a_whole_folder_of_odd_files(tmp_path):
    folder = Path(os.environ["SIGMA_ODD_FILES"])
    assert _prepare(tmp_path, videos=folder) == 0
    refused = {item["key"] for item in _report(tmp_path)["refused"]}
    accepted = {record.key: record for record in _read(tmp_path)}
    rows = list(csv.DictReader((folder / "expect.csv").open()))
    for row in rows:
        key, frames = Path(row["path"]).name, int(row["pyav_decoded_frames"])
        usable = frames and not row["pyav_error"] and min(int(row["width"]), int(row["height"])) >= payload.MIN_SIDE
        assert (key in accepted, key in refused) == (bool(usable), not usable), key
        assert not usable or accepted[key].num_frames == frames
    assert len(rows) == len(refused) + len(accepted)


def test_lists_in_every_form(videos, tmp_path):
    wanted = {"a.mp4": 0, "b c.mp4": 1, "-d.mp4": 2, "e,f.mp4": 3}
    for number, (separator, end) in enumerate([("\t", "\n"), (",", "\r\n"), (" ", "\n"), ("  ", "\r\n\r\n")]):
        listed = tmp_path / f"{number}.csv"
        listed.write_bytes(end.join(f"{name}{separator}{label}" for name, label in wanted.items()).encode() + b"\n\n")
        assert _prepare(tmp_path / str(number), videos=videos, csv=listed) == 0
        assert {record.key: record.label for record in _read(tmp_path / str(number))} == wanted


def test_class_folders_may_be_links_and_must_be_readable(tmp_path, capsys, monkeypatch):
    folder = _class_folders(tmp_path / "videos", ["jump"])
    _class_folders(tmp_path / "elsewhere", ["run"])
    (folder / "sprint").symlink_to(tmp_path / "elsewhere/run")
    (folder / "jump/again").symlink_to(folder)
    assert _prepare(tmp_path / "out", videos=folder) == 0
    assert [record.key for record in _read(tmp_path / "out")] == ["jump/v.webm", "sprint/v.webm"]
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("jump"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert _prepare(tmp_path / "other", videos=folder) == 2
    assert f"Permission denied: '{folder / 'jump'}'" in capsys.readouterr().err


def test_a_slip_in_a_list_of_numbers_is_refused_and_makes_no_names(videos, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("a.mp4,10\n-d.mp4,9\ng.mp4,-1\nh.mp4,nine\nb c.mp4,400\n")
    assert _prepare(tmp_path / "out", videos=videos, csv=listed, name="k400") == 0
    assert {record.key: record.label for record in _read(tmp_path / "out")} == {"a.mp4": 10, "-d.mp4": 9, "g.mp4": -1}
    assert _refused(tmp_path / "out") == {
        "h.mp4": "label 'nine' is not a class number: expected 0..399, or -1 for no class",
        "b c.mp4": "label '400' is not a class number: expected 0..399, or -1 for no class",
    }


def test_a_class_of_two_lines_would_shift_all_others(videos, tmp_path):
    for name in ("a\nb", "c\u2028d", "e"):
        (videos / name).mkdir()
        shutil.copy(videos / "a.mp4", videos / name)
    assert _prepare(tmp_path / "out", videos=videos) == 0
    assert (tmp_path / "out/label_map.txt").read_text() == "e\n"
    assert _refused(tmp_path / "out") == {
        "a\nb/a.mp4": "label 'a\\nb' is more than a line",
        "c\u2028d/a.mp4": "label 'c\\u2028d' is more than a line",
    }


def test_two_runs_at_once_do_not_share_a_folder(videos, tmp_path, capsys):
    out = tmp_path / "out"
    with owned(out, print):
        assert _prepare(out, videos=videos) == 2
        assert f"{out} is in use by process" in capsys.readouterr().err
    assert _prepare(out, videos=videos) == 0


def test_what_is_printed_moves_no_cursor(videos, tmp_path, capsys):
    listed = tmp_path / "list.csv"
    listed.write_bytes(b"a.mp4\n\x1b[2Jx.mp4\n\xff\x9b.mp4\n")
    assert _prepare(tmp_path / "out", videos=videos, csv=listed, max_refused=1) == 0
    printed = capsys.readouterr().out
    assert "\\x1b[2Jx.mp4: line 2 of list.csv: no such file" in printed and "\\udcff\\udc9b.mp4" in printed


def test_names_as_labels_are_sorted_and_bare_paths_have_none(videos, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("\ufeffpath,label\na.mp4,zebra crossing\ng.mp4,7\nh.mp4,ant\n")
    assert _prepare(tmp_path / "named", videos=videos, csv=listed) == 0
    assert {record.key: record.label for record in _read(tmp_path / "named")} == {"g.mp4": 0, "h.mp4": 1, "a.mp4": 2}
    assert (tmp_path / "named/label_map.txt").read_text() == "7\nant\nzebra crossing\n"
    (videos / "list.csv").write_text("a.mp4\nh.mp4\n")
    assert _prepare(tmp_path / "bare", csv=videos / "list.csv") == 0
    assert {record.key: record.label for record in _read(tmp_path / "bare")} == {"a.mp4": -1, "h.mp4": -1}


def test_lines_that_do_not_fit_are_refused(videos, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text(f"a.mp4,0\n\nmissing.mp4,1\ng.mp4\n../videos/a.mp4,1\n{videos}/h.mp4,-1\nb c.mp4,-2\n")
    assert _prepare(tmp_path / "out", videos=videos, csv=listed, max_refused=1) == 0
    expected = {
        "missing.mp4": "line 3 of list.csv: no such file",
        "g.mp4": "line 4 of list.csv: expected `path label`",
        "../videos/a.mp4": "line 5 of list.csv: already listed in line 1",
        "b c.mp4": "label '-2' is not a class number: expected 0..n, or -1 for no class",
    }
    _assert_refused(tmp_path / "out", expected)
    assert [record.label for record in _read(tmp_path / "out")] == [0, -1]


def test_a_second_split_keeps_the_label_map(videos, tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4,cat\ng.mp4,dog\n")
    (tmp_path / "val.csv").write_text("h.mp4,dog\nb c.mp4,emu\n")
    assert _prepare(tmp_path / "out", videos=videos, csv=tmp_path / "train.csv") == 0
    flags = {"videos": videos, "csv": tmp_path / "val.csv", "split": "val"}
    assert _prepare(tmp_path / "out", **flags, max_refused=0.5) == 0
    assert [record.label for record in _read(tmp_path / "out", "val")] == [1]
    assert _report(tmp_path / "out", "val")["refused"] == [
        {"key": "b c.mp4", "reason": "label 'emu' is not in the label map"}
    ]
    assert _report(tmp_path / "out")["videos"] == 2
    splits = json.loads((tmp_path / "out/dataset_info.json").read_text())["splits"]
    assert [(split["name"], split["shardLengths"]) for split in splits] == [("train", ["2"]), ("val", ["1"])]


def test_content_does_not_depend_on_workers_and_val_is_stable(videos, tmp_path):
    for workers in (0, 2):
        flags = [f"--videos={videos}", f"--out={tmp_path / str(workers)}", f"--workers={workers}", "--shards=2"]
        assert prepare.main([*flags, "--val_fraction=0.34"]) == 0
    for path in (tmp_path / "0").glob("*.tfrecord"):
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()
    train, val = ({record.key for record in _read(tmp_path / "0", split)} for split in ("train", "val"))
    assert len(val) == 2 and len(train) == 4 and not train & val


def test_finished_work_is_kept_and_unfinished_work_redone(videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert _prepare(out, videos=videos, shards=2) == 0
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    assert _prepare(out, videos=videos, shards=3) == 2
    assert "finished split 'train'" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content
    (out / "videos-train.index.npz").unlink()
    assert _prepare(out, videos=videos, shards=3) == 2  # all shards are there, only their index was lost
    (out / "dataset_info.json").unlink()  # as a killed run leaves it
    (out / "videos-train-00000-of-00002.tfrecord.partial").touch()
    assert _prepare(out, videos=videos, shards=3) == 0
    assert len(_read(out)) == 6 and len(list(out.glob("*.tfrecord*"))) == 3


def test_a_killed_run_goes_on_behind_a_finished_split(videos, tmp_path, monkeypatch, capsys):
    def stop_at_val(writer, *rest):
        if writer.split == "val":
            raise KeyboardInterrupt
        return write(writer, *rest)

    write, flags = preparing._SplitWriter.write, {"videos": videos, "shards": 2, "val_fraction": 0.34}
    assert _prepare(tmp_path / "straight", **flags) == 0
    with monkeypatch.context() as patched:
        patched.setattr(preparing._SplitWriter, "write", stop_at_val)
        assert _prepare(tmp_path / "out", **flags) == 130
    assert "stopped by Ctrl-C. Finished shards are kept" in capsys.readouterr().err
    for name in ("videos-train.index.npz", "dataset_info.json", "label_map.txt"):  # killed a moment earlier
        (tmp_path / f"out/{name}.host.7.partial").touch()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tfrecord")}
    assert len(kept) == 2
    assert _prepare(tmp_path / "out", **flags) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert _report(tmp_path / "out") == _report(tmp_path / "straight")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        path.name for path in (tmp_path / "straight").iterdir()
    }


def test_finished_shards_of_other_settings_are_made_anew_and_told(videos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("sigma_jax.data.metadata.write_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert _prepare(out, videos=videos, shards=2) == 130
    assert _prepare(out, videos=videos, shards=2, payload="jpeg") == 0
    assert "2 finished shards of 'train' hold other videos, labels or settings" in capsys.readouterr().out
    assert all(record.frames for record in _read(out))


def test_nothing_usable(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    assert _prepare(tmp_path / "out", videos=tmp_path / "videos") == 1
    (tmp_path / "videos/a.mp4").write_text("no video")
    assert _prepare(tmp_path / "out", videos=tmp_path / "videos") == 1
    printed = capsys.readouterr().out
    assert "nothing usable" in printed
    assert f"{tmp_path / 'videos'} lists no video: expected files that end in .3gp .avi" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["prepare_report.json"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "--videos=FOLDER or --csv=FILE"),
        ({"videos": "/nowhere"}, "/nowhere is no folder"),
        ({"videos": DATA, "csv": "/nowhere"}, "/nowhere is no file"),
        ({"videos": DATA, "name": "a-b"}, "lower-case"),
        ({"videos": DATA, "val_fraction": 1}, "must be in"),
        ({"videos": DATA, "shards": -1}, "must be positive"),
    ],
)
def test_wrong_usage(tmp_path, capsys, flags, message):
    assert _prepare(tmp_path / "out", **flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _class_folders(folder, names):
    for name in names:
        (folder / name).mkdir(parents=True)
        shutil.copy(DATA / "clips/sign/milk.webm", folder / name / "v.webm")
    return folder


def test_a_known_data_set_gets_the_numbers_of_its_label_map(tmp_path, capsys):
    folder = _class_folders(tmp_path / "videos", ["air_drumming", "Zumba", "knitting"])
    assert _prepare(tmp_path / "out", videos=folder, name="k400") == 0
    found = {record.label_name: record.label for record in _read(tmp_path / "out")}
    names = classes.shipped_names("k400")
    assert found == {"air drumming": 1, "zumba": 399, "knitting": names.index("knitting")}
    assert (tmp_path / "out/label_map.txt").read_text().splitlines() == names
    assert _report(tmp_path / "out")["label_hash"] == specs.LABEL_HASHES["k400"]
    _class_folders(folder, ["juggling elephants"])
    assert _prepare(tmp_path / "second", videos=folder, name="k400") == 0
    (refused,) = _report(tmp_path / "second")["refused"]
    assert "'juggling elephants' is not in the label map" in refused["reason"]


def test_another_label_map_than_the_data_set_has_is_an_error(tmp_path, capsys):
    folder = _class_folders(tmp_path / "videos", ["Archery"])
    (tmp_path / "list.txt").write_text("Archery/v.webm 1\n")
    wanted = classes.shipped_names("ucf101")
    lines = [f"{number} {name}\n" for number, name in enumerate(sorted(wanted), 1)]
    (tmp_path / "classInd.txt").write_text("".join(lines))
    flags = {"videos": folder, "csv": tmp_path / "list.txt", "format": "ucf101", "labels": tmp_path / "classInd.txt"}
    assert _prepare(tmp_path / "out", name="ucf101", **flags) == 2
    printed = capsys.readouterr().err
    assert "is not the label map of ucf101" in printed and specs.LABEL_HASHES["ucf101"] in printed
    assert "class 34 is 'HammerThrow', expected 'Hammering'" in printed and "choose another --name" in printed
    assert _prepare(tmp_path / "out", name="mine", **flags) == 0
    assert _prepare(tmp_path / "out", name="ucf101", split="val", videos=folder) == 2  # the map of the first split


def test_names_that_a_list_spells_in_its_own_way_make_the_same_label_map(tmp_path):
    folder = _class_folders(tmp_path / "videos", ["archery"])
    names = classes.shipped_names("ucf101")
    (tmp_path / "list.txt").write_text("archery/v.webm 3\n")
    (tmp_path / "classInd.txt").write_text("".join(f"{i} {name.lower()}\n" for i, name in enumerate(names, 1)))
    flags = {"videos": folder, "csv": tmp_path / "list.txt", "format": "ucf101", "labels": tmp_path / "classInd.txt"}
    for split in ("train", "val"):
        assert _prepare(tmp_path / "out", name="ucf101", split=split, **flags) == 0
        assert [(r.label, r.label_name) for r in _read(tmp_path / "out", split)] == [(2, "Archery")]
        assert _report(tmp_path / "out", split)["label_hash"] == specs.LABEL_HASHES["ucf101"]
    assert (tmp_path / "out/label_map.txt").read_text().splitlines() == names


def test_charades_is_compared_with_the_hash_of_its_names(tmp_path, capsys, monkeypatch):
    folder = _class_folders(tmp_path / "videos", ["."])
    (tmp_path / "list.csv").write_text("id,actions\nv,c001 0.0 1.0\n")
    names = [f"Doing {i}" for i in range(157)]
    lines = [f"c{i:03d} {name}\n" for i, name in enumerate(names)]
    (tmp_path / "Charades_v1_classes.txt").write_text("".join(lines))
    flags = {"videos": folder, "csv": tmp_path / "list.csv", "format": "charades", "name": "charades"}
    assert _prepare(tmp_path / "out", **flags) == 2
    assert "157 classes with hash" in capsys.readouterr().err
    monkeypatch.setitem(specs.LABEL_HASHES, "charades", classes.label_hash(names))
    assert _prepare(tmp_path / "out", **flags) == 0
    assert _read(tmp_path / "out")[0].label == 1
    assert (tmp_path / "out/label_map.txt").read_text().splitlines() == names


def test_numbers_get_no_names_that_nothing_states(tmp_path):
    folder = _class_folders(tmp_path / "videos", ["x"])
    (tmp_path / "list.csv").write_text("x/v.webm 7\n")
    assert _prepare(tmp_path / "out", videos=folder, csv=tmp_path / "list.csv", name="k400") == 0
    assert _read(tmp_path / "out")[0].label == 7 and not (tmp_path / "out/label_map.txt").exists()


def test_a_large_share_of_refused_lines_writes_nothing_unless_accepted(videos, tmp_path, capsys):
    listed, out = tmp_path / "list.csv", tmp_path / "out"
    listed.write_text("a.mp4,x\ngone.mp4,x\ng.mp4,y\nlost.mp4,y\n")
    assert _prepare(out, videos=videos, csv=listed) == 1
    printed = capsys.readouterr()
    assert "2 of 4 videos (50.0%) are refused, more than --max_refused=0.4. Nothing was written" in printed.err
    assert printed.err.endswith("--max_refused=1\n") and "gone.mp4: line 2 of list.csv: no such file" in printed.out
    assert [path.name for path in out.iterdir()] == ["prepare_report.json"] and len(_report(out)["refused"]) == 2
    assert _prepare(out, videos=videos, csv=listed, max_refused=0.5) == 0
    assert [record.key for record in _read(out)] == ["a.mp4", "g.mp4"]
    before = (out / "prepare_report.json").read_bytes()
    listed.write_text("a.mp4,x\ngone.mp4,x\n")
    assert _prepare(out, videos=videos, csv=listed) == 1  # the report of a split that is there stays
    assert (out / "prepare_report.json").read_bytes() == before


def test_a_large_share_of_broken_videos_is_an_error_behind_the_shards(videos, tmp_path, capsys):
    for name in "xyzuvw":
        (videos / f"{name}.mp4").write_bytes(b"no video")
    assert _prepare(tmp_path / "out", videos=videos) == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert "6 of 12 videos (50.0%) are refused, more than --max_refused=0.4. The shards are written" in printed
    assert len(_read(tmp_path / "out")) == 6


def test_splits_of_folders_and_lists_are_kept_apart(tmp_path, capsys):
    folder = _class_folders(tmp_path / "videos", ["train/run", "train/jump", "val/run", "test/run", "test/walk"])
    assert _prepare(tmp_path / "out", videos=folder) == 0
    found = {split: {r.label_name for r in _read(tmp_path / "out", split)} for split in ("train", "val", "test")}
    assert found == {"train": {"run", "jump"}, "val": {"run"}, "test": {"run", "walk"}}
    assert (tmp_path / "out/label_map.txt").read_text() == "jump\nrun\nwalk\n"
    printed = capsys.readouterr().out
    assert "val has no video of 2 classes of the other splits: jump, walk" in printed
    assert "train has no video of 1 class of the other splits: walk" in printed
    assert _prepare(tmp_path / "val", videos=folder, split="val") == 0
    assert {path.name for path in (tmp_path / "val").glob("*.tfrecord")} == {"videos-val-00000-of-00001.tfrecord"}
    assert _prepare(tmp_path / "no", videos=folder, val_fraction=0.2) == 2
    assert "has the splits ['test', 'train', 'val'] already: leave out --val_fraction" in capsys.readouterr().err
    assert _prepare(tmp_path / "no", videos=folder, layout="classes", val_fraction=0.99) == 2
    assert "leaves no video for 'train'" in capsys.readouterr().err
    assert _prepare(tmp_path / "no", videos=folder, split="other") == 2
    listed = tmp_path / "list.csv"
    listed.write_text("path,label,split\ntrain/run/v.webm,run,Train\nval/run/v.webm,run,validation\n")
    assert _prepare(tmp_path / "list", videos=folder, csv=listed) == 0
    assert {split: len(_read(tmp_path / "list", split)) for split in ("train", "val")} == {"train": 1, "val": 1}
    listed.write_text("path,label,split\ntrain/run/v.webm,run,fold1\n")
    assert _prepare(tmp_path / "no", videos=folder, csv=listed) == 2
    assert "a column of splits with ['fold1'], expected train, val or test" in capsys.readouterr().err


def test_folders_called_by_numbers_are_names_unless_said(tmp_path, capsys):
    folder = _class_folders(tmp_path / "videos", ["2019", "2021"])
    assert _prepare(tmp_path / "names", videos=folder) == 0
    assert [(r.label, r.label_name) for r in _read(tmp_path / "names")] == [(0, "2019"), (1, "2021")]
    assert _prepare(tmp_path / "numbers", videos=folder, labels_are="numbers") == 0
    assert [r.label for r in _read(tmp_path / "numbers")] == [2019, 2021]
    assert "a head of 2022 classes, 2020 of them without a video" in capsys.readouterr().out
    _class_folders(tmp_path / "more", ["2020"])
    assert _prepare(tmp_path / "numbers", videos=tmp_path / "more", split="val") == 2
    assert "the classes of split 'train'" in capsys.readouterr().err  # numbers there, names here
    (tmp_path / "list.csv").write_text("2019/v.webm 2019\n2021/v.webm 2021\n")
    flags = {"videos": folder, "csv": tmp_path / "list.csv", "labels_are": "names"}
    assert _prepare(tmp_path / "list", **flags) == 0
    assert (tmp_path / "list/label_map.txt").read_text() == "2019\n2021\n"
    assert _prepare(tmp_path / "no", format="ucf101", **flags) == 2


def test_numbers_that_may_be_names_of_the_label_map_are_asked_about(tmp_path, capsys):
    folder, out = _class_folders(tmp_path / "videos", ["1", "2"]), tmp_path / "out"
    assert _prepare(out, videos=folder) == 0
    (tmp_path / "list.csv").write_text("1/v.webm 1\n2/v.webm 1\n")
    flags = {"videos": folder, "csv": tmp_path / "list.csv"}
    assert _prepare(out, split="val", **flags) == 2
    assert "are called by numbers (1, 2)" in capsys.readouterr().err
    assert _prepare(out, split="val", labels_are="names", **flags) == 0
    assert _prepare(out, split="test", labels_are="numbers", **flags) == 0
    labels = {split: [r.label for r in _read(out, split)] for split in ("val", "test")}
    assert labels == {"val": [0, 0], "test": [1, 1]}
    (tmp_path / "years.txt").write_text("2019\n2020\n")  # numbers stand for names that are numbers
    (tmp_path / "list.csv").write_text("1/v.webm 1\n2/v.webm 0\n")
    assert _prepare(tmp_path / "years", labels=tmp_path / "years.txt", **flags) == 0
    assert [(r.label, r.label_name) for r in _read(tmp_path / "years")] == [(1, "2020"), (0, "2019")]


def test_class_names_in_order_hold_for_folders_too(tmp_path):
    folder = _class_folders(tmp_path / "videos", ["ant", "zebra", "cat"])
    (tmp_path / "names.txt").write_text("zebra\nant\n")
    assert _prepare(tmp_path / "out", videos=folder, labels=tmp_path / "names.txt") == 0
    assert {r.label_name: r.label for r in _read(tmp_path / "out")} == {"zebra": 0, "ant": 1}
    assert [item["key"] for item in _report(tmp_path / "out")["refused"]] == ["cat/v.webm"]


def test_class_names_that_stand_twice(tmp_path, capsys):
    folder = _class_folders(tmp_path / "videos", ["jump", "run"])
    (tmp_path / "names.txt").write_text("jump\nrun\njump\n")
    assert _prepare(tmp_path / "no", videos=folder, labels=tmp_path / "names.txt") == 2
    assert "names.txt names 'jump' twice" in capsys.readouterr().err
    (tmp_path / "list.csv").write_text("jump/v.webm 0\nrun/v.webm 2\n")  # numbers tell the two apart
    assert _prepare(tmp_path / "out", videos=folder, csv=tmp_path / "list.csv", labels=tmp_path / "names.txt") == 0
    assert {r.key: (r.label, r.label_name) for r in _read(tmp_path / "out")} == {
        "jump/v.webm": (0, "jump, class 0"),
        "run/v.webm": (2, "jump, class 2"),
    }


def test_classes_with_accents_are_the_same_in_the_next_split(tmp_path):
    for form, split in (("NFC", "train"), ("NFD", "val")):
        folder = _class_folders(tmp_path / form, [unicodedata.normalize(form, name) for name in ("é", "tea")])
        assert _prepare(tmp_path / "out", videos=folder, split=split) == 0
    assert [(r.label, r.label_name) for r in _read(tmp_path / "out", "val")] == [(1, "é"), (0, "tea")]


def test_a_label_map_that_was_changed_takes_no_second_split(tmp_path, capsys):
    folder, out = _class_folders(tmp_path / "videos", ["ant", "bee"]), tmp_path / "out"
    assert _prepare(out, videos=folder) == 0
    (out / "label_map.txt").write_text("bee\nant\n")
    assert _prepare(out, videos=folder, split="val") == 2
    assert "the classes of split 'train' were numbered by one with" in capsys.readouterr().err
    (out / "label_map.txt").unlink()
    assert _prepare(out, videos=folder, split="val") == 2
    assert "label_map.txt is gone" in capsys.readouterr().err


def test_labelled_folders_of_pictures(tmp_path, capsys):
    for key, numbers in (("run/a", (1, 2, 3)), ("run/b", (0, 1, 3)), ("jump/c", (1, 2))):
        (tmp_path / "videos" / key).mkdir(parents=True)
        for number in numbers:
            picture = np.full((32, 48, 3), 9 * number, np.uint8)
            (tmp_path / "videos" / key / f"img_{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(picture))
    flags = {"videos": tmp_path / "videos", "payload": "jpeg"}
    assert _prepare(tmp_path / "no", videos=tmp_path / "videos") == 2
    assert "has folders of pictures: they need --payload=jpeg" in capsys.readouterr().err
    wanted = {"run/a": (3, 1), "run/b": (3, 1), "jump/c": (2, 0)}
    assert _prepare(tmp_path / "folder", **flags) == 0
    assert {r.key: (r.num_frames, r.label) for r in _read(tmp_path / "folder")} == wanted
    assert _report(tmp_path / "folder")["warnings"] == [{"key": "run/b", "reason": "no pictures with the numbers 2"}]
    listed = tmp_path / "list.txt"
    listed.write_text("run/a 3 1\nrun/b 3 1\njump/c 2 0\n")
    assert _prepare(tmp_path / "rawframes", csv=listed, format="rawframes", **flags) == 0
    assert {r.key: (r.num_frames, r.label) for r in _read(tmp_path / "rawframes")} == wanted
    assert _prepare(tmp_path / "no", csv=listed, format="videomae_v2", **flags) == 2
    assert "choose --format=rawframes" in capsys.readouterr().err
    assert _prepare(tmp_path / "no", csv=listed, **flags) == 2
    assert "says which of them is the label" in capsys.readouterr().err
    listed.write_text("run/a 1 3\nrun/b 0 3\njump/c 1 2\n")
    assert _prepare(tmp_path / "no", csv=listed, format="rawframes", **flags) == 2
    assert "choose --format=videomae_v2" in capsys.readouterr().err
    listed.write_text("folder,class\nrun/a,run\njump/c,jump\n")
    assert _prepare(tmp_path / "csv", csv=listed, **flags) == 0
    assert {r.key: r.label_name for r in _read(tmp_path / "csv")} == {"run/a": "run", "jump/c": "jump"}


def test_a_sidecar_that_does_not_fit_on_the_disk_leaves_nothing_behind(videos, tmp_path, monkeypatch, capsys):
    def full(path, *_, **__):
        path.open("w").close()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        assert _prepare(out, videos=videos) == 2
    assert capsys.readouterr().err.endswith("Finished shards are kept: make room and run the same command again\n")
    assert not list(out.glob("*.partial"))
    assert _prepare(out, videos=videos) == 0 and len(_read(out)) == 6


def test_classes_that_differ_in_case_only_are_told(tmp_path, capsys):
    folder = _class_folders(tmp_path / "videos", ["Run", "run", "jump"])
    assert _prepare(tmp_path / "out", videos=folder) == 0
    assert "these are different classes: Run, run. If they should be one, rename a folder" in capsys.readouterr().out
    assert {r.label_name: r.label for r in _read(tmp_path / "out")} == {"Run": 0, "jump": 1, "run": 2}
