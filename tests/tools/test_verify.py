"""Every kind of damage is found and named; what is in order is called so."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sigma_jax.data import metadata, records
from sigma_jax.tools import prepare, verify

CLIPS = Path(__file__).parents[1] / "data" / "clips"


@pytest.fixture(scope="module", params=["video", "jpeg"])
def prepared(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    flags = [f"--videos={CLIPS}", f"--out={out}", "--workers=0", "--shards=2", "--short_side=64", "--name=toy"]
    assert prepare.main([*flags, f"--payload={request.param}"]) == 0
    return out


@pytest.fixture
def data_dir(prepared, tmp_path):
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def _verify(data_dir, capsys, *flags):
    code = verify.main([f"--data_dir={data_dir}", "--workers=0", *flags])
    return code, "".join(capsys.readouterr())


def test_a_good_set(data_dir, capsys):
    code, printed = _verify(data_dir, capsys, "--full", "--dataset=cifar100")
    assert code == 0
    assert "train: 5 good of 5 records in 2 shards" in printed and "classes: 2, without a class: 0" in printed
    assert "5 of 50000 expected videos (0.01 %), missing: 49995" in printed
    assert "in order, but 49995 expected videos are missing" in printed and "all is well" not in printed
    assert "all is well" in _verify(data_dir, capsys)[1]


def test_too_many_missing_videos(data_dir, capsys):
    code, printed = _verify(data_dir, capsys, "--dataset=cifar100", "--max_missing=0.99")
    assert code == 1 and "WRONG 49995 of 50000 expected videos are missing, --max_missing=0.99" in printed
    with pytest.raises(SystemExit):
        _verify(data_dir, capsys, "--dataset=k4000")
    assert "--dataset=k4000 is unknown, expected one of ['charades'" in capsys.readouterr().err


def test_a_flipped_bit_anywhere(data_dir, capsys):
    shard, rng = sorted(data_dir.glob("*.tfrecord"))[1], np.random.default_rng(0)
    good = shard.read_bytes()
    for position in [0, 9, 14, len(good) - 1, *rng.integers(len(good), size=8)]:
        data = bytearray(good)
        data[position] ^= 1 << rng.integers(8)
        shard.write_bytes(data)
        code, printed = _verify(data_dir, capsys)
        assert code == 1 and "FAILED" in printed and shard.name in printed, position


def test_missing_and_truncated_shards(data_dir, capsys):
    shard = sorted(data_dir.glob("*.tfrecord"))[1]
    os.truncate(shard, shard.stat().st_size - 5)
    assert "bytes, its index says" in _verify(data_dir, capsys)[1]
    next(data_dir.glob("*.index.npz")).unlink()
    code, printed = _verify(data_dir, capsys)
    assert code == 1 and "truncated" in printed
    shard.unlink()
    code, printed = _verify(data_dir, capsys)
    assert code == 1 and "found 1 of 2 shards" in printed
    assert _verify(data_dir / "nowhere", capsys)[0] == 1


def test_every_split_is_checked(data_dir, capsys):
    for path in list(data_dir.glob("*train*")):
        (data_dir / path.name.replace("train", "val")).write_bytes(path.read_bytes())
    os.truncate(sorted(data_dir.glob("*train*.tfrecord"))[1], 5)
    code, printed = _verify(data_dir, capsys)
    assert code == 1 and "val: 5 good of 5 records" in printed and "verify: train: " in printed
    for path in data_dir.glob("*train*"):
        path.unlink()
    code, printed = _verify(data_dir, capsys)  # prepare_report.json still promises it
    assert code == 1 and "val: 5 good of 5 records" in printed and "has no split 'train'" in printed


def test_class_names_that_are_numbers_are_compared_too():
    years = ["2019", "2020", "2021"]
    assert metadata.check_label(years, 1, "2020") == "" == metadata.check_label(["a", "b"], 1, "1")
    assert metadata.check_label(years, 0, "2021") == "its class 0 is '2021', and '2019' in label_map.txt"


def test_another_label_map_than_the_classes_were_numbered_by(data_dir, capsys):
    (data_dir / "label_map.txt").write_text("sign\nscene\n")
    code, printed = _verify(data_dir, capsys)
    assert code == 1 and "label_map.txt has hash" in printed and "copy both again" in printed
    (data_dir / "label_map.txt").unlink()
    assert (
        "label_map.txt is not there, but by prepare_report.json the classes of 'train' were numbered"
        in _verify(data_dir, capsys)[1]
    )


def test_processes_check_all_records_and_a_crash_of_one_is_said(capsys, monkeypatch):
    assert list(verify._run(abs, 70, 2)) == list(range(70))
    monkeypatch.setattr(verify, "verify_split", lambda *_: list(verify._run(os._exit, 70, 1)))
    assert verify.main(["--data_dir=x", "--split=train"]) == 1
    assert "a video crashed its decoder (" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["toy-train.index.npz", "dataset_info.json"])
def test_damaged_sidecars_are_named(data_dir, capsys, name):
    (data_dir / name).write_text("[")
    code, printed = _verify(data_dir, capsys)
    assert code == 1 and f"{name} is damaged" in printed and "delete it" in printed


def test_what_cannot_be_read_is_not_called_bad(data_dir, capsys, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "shard")

    monkeypatch.setattr(verify, "verify_split", refuse)
    code, printed = _verify(data_dir, capsys)
    assert code == 1 and "FAILED: not all could be read" in printed and "prepare the shards" not in printed


def _rewrite(data_dir, change):
    """Replaces the first record of the first shard by change(record)."""
    source = records.RecordSource(data_dir, "train")
    kept = [source.read_whole(i) for i in range(source.locate_shard(0)[1])]
    with records.ShardWriter(source.shards[0]) as writer:
        for record in [change(kept[0]), *kept[1:]]:
            writer.write(record)
    records.build_index(data_dir, "train")
    return kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, label=2), "label 2, there are 2 classes"),
        (lambda r: replace(r, height=63), "the record says"),
        (lambda r: replace(r, key="sign/milk.webm"), "'sign/milk.webm' is there 2 times"),
        (
            lambda r: replace(r, frames=(b"x",) * r.num_frames) if r.frames else replace(r, video=b"x" * 99),
            "no picture|not readable",
        ),
    ],
)
def test_records_that_are_whole_but_wrong(data_dir, capsys, change, message):
    _rewrite(data_dir, change)
    code, printed = _verify(data_dir, capsys)
    assert code == 1
    assert any(part in printed for part in message.split("|"))


def test_metadata_and_index_that_say_something_else(data_dir, capsys):
    info = json.loads((data_dir / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["3", "9"]
    metadata.write_json(data_dir / "dataset_info.json", info)
    printed = _verify(data_dir, capsys)[1]
    assert "promises 12 records of 'train' in 2 shards, there are 5 in 2; shard 1 should have 9 and has 2" in printed
    index = next(data_dir.glob("*.index.npz"))
    with np.load(index) as arrays:
        changed = dict(arrays)
    changed["offsets"][1] += 1
    np.savez(index, **changed)
    code, printed = _verify(data_dir, capsys)
    assert code == 1 and "lie elsewhere than the index says" in printed


def test_another_label_map_than_the_named_data_set_has(data_dir, capsys):
    code, printed = _verify(data_dir, capsys, "--dataset=ucf101")
    assert code == 1 and "WRONG label_map.txt is not the label map of ucf101: 2 classes" in printed
