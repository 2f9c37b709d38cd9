"""What the layout of a folder says: classes, splits above or below them, folders of pictures; in doubt an error."""

import os
import unicodedata

import pytest

from sigma_jax.datasets.classes import shipped_names
from sigma_jax.datasets.listing import Found, list_folder, places, read_folder, split_of
from sigma_jax.datasets.numbering import number_labels
from sigma_jax.datasets.specs import LABEL_HASHES
from sigma_jax.runtime.errors import InvalidValue


def _make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def _found(listing):
    return {entry.key: (entry.split, entry.label) for entry in listing.entries}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            ("train", "train"),
            ("Training", "train"),
            ("videos_train", "train"),
            ("TRAIN_256", "train"),
            ("trainset", "train"),
        ),
        *(
            ("val", "val"),
            ("validation", "val"),
            ("Valid", "val"),
            ("dev", "val"),
            ("test", "test"),
            ("Testing-data", "test"),
        ),
        *(
            ("trains", ""),
            ("train horn", ""),
            ("test drive", ""),
            ("value", ""),
            ("train_val", ""),
            ("2019", ""),
            ("", ""),
        ),
    ],
)
def test_names_of_splits(name, split):
    assert split_of(name) == split


def test_no_class_of_the_known_data_sets_is_taken_for_a_split():
    names = [name for data_set in LABEL_HASHES for name in shipped_names(data_set)]
    assert len(names) > 800 and [name for name in names if split_of(name) or split_of(name.replace(" ", "_"))] == []


def test_splits_that_are_called_by_their_data_set(tmp_path):
    _make(tmp_path, "UCF101_train/run/1.mp4", "UCF101_test/run/2.mp4")
    assert _found(read_folder(tmp_path)) == {
        "UCF101_train/run/1.mp4": ("train", "run"),
        "UCF101_test/run/2.mp4": ("test", "run"),
    }


def test_splits_above_the_classes(tmp_path):
    files = ["training/run/1.mp4", "training/jump/2.avi", "Val/run/1.MP4", "test/walk/a/b/4.mov", "test/notes.txt"]
    listing = read_folder(_make(tmp_path, *files))
    assert _found(listing) == {
        "training/run/1.mp4": ("train", "run"),
        "training/jump/2.avi": ("train", "jump"),
        "Val/run/1.MP4": ("val", "run"),
        "test/walk/a/b/4.mov": ("test", "walk"),
    }
    assert listing.others == ["test/notes.txt"]
    assert listing.notes == ["the folders above the classes are splits: test 1, train 2, val 1"]


def test_splits_without_classes_and_below_classes(tmp_path):
    flat = _make(tmp_path / "flat", "train/1.mp4", "val/2.mp4")
    assert _found(read_folder(flat)) == {"train/1.mp4": ("train", ""), "val/2.mp4": ("val", "")}
    below = _make(tmp_path / "below", "run/train/1.mp4", "run/test/2.mp4", "jump/train/3.mp4")
    assert _found(read_folder(below)) == {
        "run/train/1.mp4": ("train", "run"),
        "run/test/2.mp4": ("test", "run"),
        "jump/train/3.mp4": ("train", "jump"),
    }
    assert _found(read_folder(below, "classes"))["run/test/2.mp4"] == ("", "run")


@pytest.mark.parametrize(
    ("files", "label"),
    [
        (["train/1.mp4", "bus/2.mp4"], "train"),  # vehicles
        (["train/a/1.mp4", "bus/b/2.mp4"], "train"),
        (["run/day1/1.mp4", "jump/day1/2.mp4"], "run"),
        (["run/1.mp4", "2.mp4"], "run"),
        (["test drive/1.mp4", "train ride/2.mp4"], "test drive"),
        (["2019/1.mp4", "2020/1.mp4"], "2019"),
    ],
)
def test_folders_that_are_classes(tmp_path, files, label):
    assert _found(read_folder(_make(tmp_path, *files)))[files[0]] == ("", label)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["train/run/1.mp4", "val/run/2.mp4", "extra/run/3.mp4"],
            "holds train, val, which look like splits, beside the folders extra",
        ),
        (["train/1.mp4", "test/2.mp4", "bus/3.mp4"], "look like splits, beside the folders bus"),
        (["gallery/run/1.mp4", "gallery/jump/2.mp4", "query/run/3.mp4", "query/jump/4.mp4"], "same folders, jump, run"),
        (["train/run/1.mp4", "run/2.mp4"], "holds train, which look like splits"),
        (["train/run/1.mp4", "val/run/2.mp4", "3.mp4"], "beside videos in no folder"),
        (["val/run/1.mp4", "valid/run/2.mp4"], "several folders that mean 'val'"),
        (
            ["UCF/train/run/1.mp4", "UCF/val/run/2.mp4"],
            "all videos lie below .*UCF, in its folders train, val.*--videos=.*UCF",
        ),
        (["UCF/run/1.mp4", "UCF/jump/2.mp4"], "'UCF' is a class: --layout=classes"),
        (["run/train/1.mp4", "run/val/2.mp4", "jump/3.mp4"], "below some of jump, run, but not all"),
    ],
)
def test_layouts_that_can_be_read_in_two_ways_are_errors(tmp_path, files, message):
    _make(tmp_path, *files)
    with pytest.raises(InvalidValue, match=message):
        read_folder(tmp_path)
    assert {entry.split for entry in read_folder(tmp_path, "classes").entries} == {""}
    assert {entry.label for entry in read_folder(tmp_path, "unlabelled").entries} == {""}


def test_a_layout_that_is_said_and_not_there(tmp_path):
    with pytest.raises(
        InvalidValue, match="--layout=splits expects only folders called train, val or test in .*, got bus"
    ):
        read_folder(_make(tmp_path, "train/1.mp4", "bus/2.mp4"), "splits")


def test_folders_of_pictures_are_videos_where_there_are_no_others(tmp_path):
    _make(tmp_path, "run/v1/img_00001.JPG", "run/v1/img_00002.JPG", "run/v2/1.png", "jump/v1/a.jpg", "list.txt")
    listing = read_folder(tmp_path)
    assert _found(listing) == {"run/v1": ("", "run"), "run/v2": ("", "run"), "jump/v1": ("", "jump")}
    assert listing.others == ["list.txt"] and listing.notes == ["3 folders of pictures are the videos"]
    _make(tmp_path, "run/film.mp4")
    assert _found(read_folder(tmp_path)) == {"run/film.mp4": ("", "run")}  # pictures beside videos are thumbnails
    _make(tmp_path / "split", "train/run/v1/0.jpg", "val/run/v2/0.jpg")
    assert _found(read_folder(tmp_path / "split")) == {"train/run/v1": ("train", "run"), "val/run/v2": ("val", "run")}


def test_empty_classes_and_hidden_files_are_no_classes(tmp_path):
    _make(tmp_path, "run/1.mp4", "run/.2.mp4", ".cache/3.mp4", "walk/.keep", "swim/notes.txt")
    listing = read_folder(tmp_path)
    assert _found(listing) == {"run/1.mp4": ("", "run")}
    assert listing.notes == ["folders without a video, which make no class: swim, walk"]


def test_links_that_lead_in_circles_or_to_a_file_twice(tmp_path):
    _make(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    (tmp_path / "b/self.mp4").symlink_to(tmp_path / "b/self.mp4")
    (tmp_path / "b/again.mp4").symlink_to(tmp_path / "a/1.mp4")
    assert "b/self.mp4" in [entry.key for entry in list_folder(tmp_path)[0]]
    listing = read_folder(tmp_path)
    assert [entry.key for entry in listing.entries] == ["a/1.mp4", "a/to_b/2.mp4", "a/to_b/self.mp4"]
    reasons = {refusal.key: refusal.reason for refusal in listing.refused}
    assert reasons["b/again.mp4"] == "is a link to the same file as a/1.mp4, there with class 'a', here 'b'"
    assert reasons["b/2.mp4"] == "is a link to the same file as a/to_b/2.mp4, there with class 'a', here 'b'"


def test_names_in_nfc_and_nfd_are_one_class(tmp_path):
    nfd = unicodedata.normalize("NFD", "élan")
    entries = read_folder(_make(tmp_path, "élan/1.mp4", f"{nfd}/2.mp4", "tea/3.mp4")).entries
    numbers, names = number_labels(entries, [], numbers=False)
    assert names == ["tea", "élan"] and numbers == {"élan": 1, nfd: 1, "tea": 0, "": -1}  # in NFD e is before t
    assert number_labels(entries, [nfd, "tea"], numbers=False)[0] == {"élan": 0, nfd: 0, "tea": 1, "": -1}


def test_names_that_are_numbers_are_in_the_order_of_numbers(tmp_path):
    entries = read_folder(_make(tmp_path, *(f"{n}/1.mp4" for n in (0, 10, 2, 1)))).entries
    assert number_labels(entries, [], numbers=False)[1] == ["0", "1", "2", "10"]
    entries = read_folder(_make(tmp_path, "hello/1.mp4")).entries
    assert number_labels(entries, [], numbers=False)[1] == ["0", "1", "10", "2", "hello"]


def test_where_a_listed_video_may_lie(tmp_path):
    nfd = unicodedata.normalize("NFD", "é.mp4")
    _make(tmp_path, "run/a.mp4", "b.MP4", nfd, "50%.webm")
    for name in (
        "run\\a.mp4",
        "run\\A\\..\\a.mp4".replace("A\\..\\", ""),
        "b.mp4",
        "é.mp4",
        "50%",
        str(tmp_path / "b.MP4"),
    ):
        assert any(path.is_file() for path in places(tmp_path, name)), name
    assert not any(path.is_file() for path in places(tmp_path, "c.mp4"))


def test_a_video_that_is_listed_twice(tmp_path):
    _make(tmp_path, "a.mp4")
    found = Found("list.csv")
    for number, label in enumerate(("x", "x", "y"), 1):
        found.add(number, [tmp_path / "a.mp4"], "a.mp4", label)
    assert [refusal.reason for refusal in found.refused] == [
        "line 2 of list.csv: already listed in line 1 of list.csv",
        "line 3 of list.csv: already listed in line 1 of list.csv, there with class 'x', here 'y'",
    ]
    os.remove(tmp_path / "a.mp4")
