"""Every released list format, from excerpts made up in its form."""

import json
from pathlib import Path

import pytest

from sigma_jax.datasets.frame_folders import choose_frames
from sigma_jax.datasets.list_formats import FORMATS, ListSpec, read_list
from sigma_jax.datasets.numbering import number_labels


def _read(name, tmp_path, files, listed, *, labels=None, split="train"):
    """({key: label index}, refusals) of files `files` below tmp_path and a list with that text."""
    for file in files:
        path = tmp_path / "videos" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "list").write_text(listed)
    if labels is not None:
        (tmp_path / "labels").write_text(labels, errors="surrogateescape")
    spec = ListSpec(tmp_path / "list", tmp_path / "videos", split, tmp_path / "labels" if labels is not None else None)
    found, names = read_list(name, spec)
    numbers, _ = number_labels(found.entries, names)
    return {entry.key: numbers[entry.label] for entry in found.entries}, [r.reason for r in found.refused]


def test_csv(tmp_path):
    assert _read("csv", tmp_path, ["a.mp4", "b.mp4"], "a.mp4\t3\r\n\r\nb.mp4\t0\r\n") == ({"a.mp4": 3, "b.mp4": 0}, [])


def test_csv_of_numbers_with_the_names_that_they_stand_for(tmp_path):
    listed, names = "a.mp4 2\nb.mp4 0\nc.mp4 -1\nd.mp4 3\n", "zebra\nant\n\ncat\n"
    found, _ = _read("csv", tmp_path, ["a.mp4", "b.mp4", "c.mp4"], listed, labels=names)
    assert found == {"a.mp4": 2, "b.mp4": 0, "c.mp4": -1}
    spec = ListSpec(tmp_path / "list", tmp_path / "videos", labels=tmp_path / "labels")
    found, names = read_list("csv", spec)
    assert names == ["zebra", "ant", "cat"] and [entry.label for entry in found.entries] == ["cat", "zebra", ""]
    (tmp_path / "list").write_text("a.mp4 ant\nb.mp4 zebra\n")
    assert [entry.label for entry in read_list("csv", spec)[0].entries] == ["ant", "zebra"]
    with pytest.raises(ValueError, match="'videomae_v2' need no class names: leave out .*labels"):
        read_list("videomae_v2", spec)


def test_videomae_v2(tmp_path):
    (tmp_path / "videos/frames").mkdir(parents=True)
    listed = "b c.mp4 0 -1\nframes 1 32\nframes.mp4 1 2\nlost.mp4 0 -1\na.mp4\n"
    found, refused = _read("videomae_v2", tmp_path, ["b c.mp4", "frames.mp4"], listed)
    assert found == {"b c.mp4": -1, "frames": -1}
    assert [reason.split(": ")[0] for reason in refused] == [f"line {n} of list" for n in (3, 4, 5)]
    entries = read_list("videomae_v2", ListSpec(tmp_path / "list", tmp_path / "videos"))[0].entries
    assert [entry.images for entry in entries] == [(0, -1), (1, 32)]


def test_rawframes(tmp_path):
    pictures = [f"{key}/img_{n:05d}.jpg" for key in ("run/a", "jump 1/b", "c 2") for n in range(1, 13)]
    listed = "run/a 12 0\njump 1\\b 12 1\nc 2,4,8,1\nfilm.avi 90 0\nlost 3 1\nrun/a\n"
    found, refused = _read("rawframes", tmp_path, [*pictures, "film.avi"], listed)
    assert found == {"run/a": 0, "jump 1\\b": 1, "c 2": 1, "film.avi": 0}
    assert [reason.split(": ")[0] for reason in refused] == ["line 5 of list", "line 6 of list"]
    spec = ListSpec(tmp_path / "list", tmp_path / "videos")
    entries = read_list("rawframes", spec)[0].entries
    assert [entry.images for entry in entries] == [(0, 12), (0, 12), (5, 8), (0, -1)]  # four pictures are skipped
    _, warning = choose_frames(entries[2].path, *entries[2].images)
    assert not warning


def test_kinetics(tmp_path):
    listed = "label,youtube_id,time_start,time_end,split\nplaying tuba,-abc,12,22,train\nabseiling,d_f,0,10,train\n"
    listed += "abseiling,xyz,5,15,validate\nabseiling,bad,,15,train\nabseiling,gone,1,11,train\n"
    files = ["playing tuba/-abc_000012_000022.mp4", "d_f_000000_000010.mkv", "abseiling/xyz_000005_000015.mp4"]
    found, refused = _read("kinetics", tmp_path, files, listed)
    assert found == {"-abc_000012_000022": 1, "d_f_000000_000010": 0}
    assert "expected seconds" in refused[0]
    assert "no such file" in refused[1] and "nor under 7 other names, the last" in refused[1]
    assert _read("kinetics", tmp_path, [], listed, split="val")[0] == {"xyz_000005_000015": 0}
    found, _ = _read("kinetics", tmp_path, [], listed, labels="playing tuba\nzumba\nabseiling\n")
    assert found == {"-abc_000012_000022": 0, "d_f_000000_000010": 2}


def test_ssv2(tmp_path):
    items = [{"id": "7", "template": "Moving [something] up", "label": "moving cup up"}, {"id": 8}]
    labels = json.dumps({"Moving something up": "1", "Approaching something": "0"})
    found, _ = _read("ssv2", tmp_path, ["7.webm", "8.webm"], json.dumps(items), labels=labels)
    assert found == {"7": 1, "8": -1}
    with pytest.raises(ValueError, match="expected the numbers 0..0"):
        _read("ssv2", tmp_path, [], json.dumps(items), labels='{"a": "1"}')


@pytest.mark.parametrize("listed", ["Bowling/v_1.avi 2\nArchery/v_2.avi 1\n", "Bowling/v_1.avi\nArchery/v_2.avi\n"])
def test_ucf101(tmp_path, listed):
    found, _ = _read("ucf101", tmp_path, ["Bowling/v_1.avi", "v_2.avi"], listed, labels="1 Archery\n2 Bowling\n")
    assert found == {"Bowling/v_1.avi": 1, "Archery/v_2.avi": 0}


def test_hmdb51(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/wave_test_split1.txt").write_text("w (1).avi 1 \nw2.avi 2 \nw3.avi 0 \n")
    (tmp_path / "splits/eat_test_split1.txt").write_text("e.avi 1 \nbroken\n")
    for name in ("wave/w (1).avi", "wave/w2.avi", "wave/w3.avi", "eat/e.avi"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    for split, expected in (
        ("train", {"eat/e.avi": "eat", "wave/w (1).avi": "wave"}),
        ("val", {"wave/w2.avi": "wave"}),
    ):
        found, names = read_list("hmdb51", ListSpec(tmp_path / "splits", tmp_path / "videos", split))
        assert {entry.key: entry.label for entry in found.entries} == expected and names == ["eat", "wave"]
        assert [refusal.reason.partition(":")[0] for refusal in found.refused] == ["line 2 of eat_test_split1.txt"]
    (tmp_path / "splits/eat_test_split2.txt").touch()
    with pytest.raises(ValueError, match="one split N"):
        read_list("hmdb51", ListSpec(tmp_path / "splits", tmp_path / "videos"))


def test_mini_kinetics(tmp_path):
    names = "abseiling 1\nair drumming 2\n"
    listed = "a_000001_000011 2\nb_000001_000011 1\nc_000001_000011 3\n"
    files = ["air drumming/a_000001_000011.mp4", "b_000001_000011.mkv"]
    found, refused = _read("mini_kinetics", tmp_path, files, listed, labels=names)
    assert found == {"a_000001_000011": 1, "b_000001_000011": 0}
    assert len(refused) == 1 and "numbers 1..2" in refused[0]


def test_gym99(tmp_path):
    found, refused = _read("gym99", tmp_path, ["a.mp4", "b.avi"], "a.avi 1\nb.avi 0\nx.avi 0\n", labels="jump\nsplit\n")
    assert found == {"a.avi": 1, "b.avi": 0} and len(refused) == 1


def test_classes_that_share_a_name_stay_apart(tmp_path):
    found, _ = _read("gym99", tmp_path, ["a.mp4", "b.avi"], "a.avi 2\nb.avi 0\n", labels="jump\nsplit\njump\n")
    assert found == {"a.avi": 2, "b.avi": 0}


def test_charades(tmp_path):
    listed = 'id,script,actions,length\nAB1,"x, y",c001 0.0 1.0;c000 2.0 9.5,10\nCD2,z,,4\nEF3,z,c007 0 1,4\n'
    found, refused = _read(
        "charades", tmp_path, ["AB1.mp4", "CD2.mp4", "EF3.mp4"], listed, labels="c000 Holding some clothes\nc001 Walk\n"
    )
    assert found == {"AB1": 0, "CD2": -1} and "c007 is not among the 2" in refused[0]


def test_charades_takes_the_class_names_that_lie_beside_its_list(tmp_path):
    listed = "id,script,actions,length\nAB1,x,c001 0.0 1.0,10\n"
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\r\nc001 Walk \r\n")
    _read("charades", tmp_path, ["AB1.mp4"], listed)
    found, names = read_list("charades", ListSpec(tmp_path / "list", tmp_path / "videos"))
    assert names == ["Holding some clothes", "Walk"] and found.entries[0].label == "Walk"


def test_diving48(tmp_path):
    listed = json.dumps([{"vid_name": "x_1", "label": 1}, {"vid_name": "x_2", "label": 5}])
    labels = json.dumps([["Back", "TUCK"], ["Front", "PIKE"]])
    found, refused = _read("diving48", tmp_path, ["x_1.mp4", "x_2.mp4"], listed, labels=labels)
    assert found == {"x_1": 1} and "label 5" in refused[0]


def test_json_of_another_form_is_refused_or_said(tmp_path):
    items = [{"vid_name": "x_1", "label": label} for label in ("1", "one", None, 1e300, -1, 1)]
    found, refused = _read("diving48", tmp_path, ["x_1.mp4"], json.dumps(items))
    assert found == {"x_1": 1}
    assert [reason.partition(": ")[2] for reason in refused] == [
        *(f"label {label} is not in the vocabulary" for label in ("one", None, 1e300, -1)),
        "already listed in line 1 of list",
    ]
    with pytest.raises(ValueError, match="labels: expected the numbers 0..1, each once"):
        _read("ssv2", tmp_path, [], "[]", labels='{"a": 0, "b": "x"}')
    for content in ('{"label": 1}', "[1]", '[{"label": 0}]'):
        with pytest.raises(ValueError, match="list is not in the format 'diving48'"):
            _read("diving48", tmp_path, [], content)
    for content in ("[" * 9999, "{", "\udcff"):
        with pytest.raises(ValueError, match="labels is no JSON"):
            _read("ssv2", tmp_path, [], "[]", labels=content)


def test_another_format_is_a_message():
    with pytest.raises(ValueError, match="'k400' is unknown.*'kinetics'"):
        read_list("k400", ListSpec(Path(), Path()))


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"hmdb51"}))
@pytest.mark.parametrize("content", [b"\xff\xfe\x00\n\x00 1\n", b"[1, 2]", b'{"a": {}}', b"../../etc/x 1\n-rf 0 -1\n"])
def test_wild_lists_are_refused_not_fatal(tmp_path, name, content):
    (tmp_path / "list").write_bytes(content)
    (tmp_path / "videos").mkdir()
    try:
        found, _ = read_list(name, ListSpec(tmp_path / "list", tmp_path / "videos"))
    except ValueError as error:
        assert "list" in str(error)
    else:
        assert not found.entries
