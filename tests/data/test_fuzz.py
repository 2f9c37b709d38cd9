"""Mutated records, pictures, sidecars, indexes and lists: no crash, nothing wrong without a word, no huge allocation.

SIGMA_FUZZ=100000 python -m pytest tests/data/test_fuzz.py runs more of them.
"""

import json
import os
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sigma_jax.data import clips, jpeg_crop, metadata, records, schema, tfds_sets
from sigma_jax.data.decode import BadVideo
from sigma_jax.data.source import open_source
from sigma_jax.datasets import list_formats, payload
from sigma_jax.datasets.classes import read_classes
from sigma_jax.datasets.numbering import number_labels
from tests.data.loaders import measuring

CLIP = Path(__file__).parent / "clips" / "sign" / "milk.webm"
LISTS = {
    "csv": "-a.mp4,0\n../b c.mp4,1\n/etc/passwd,2\n\n",
    "videomae_v2": "-a.mp4 0 -1\nframes 1 32\n",
    "kinetics": "label,youtube_id,time_start,time_end,split\nplaying tuba,-abc,12,22,train\nabseiling,d_f,0,10,train\n",
    "ssv2": '[{"id": "7", "template": "Moving [something] up"}, {"id": 8}]',
    "ucf101": "Bowling/v_1.avi 2\nArchery/v_2.avi 1\n",
    "hmdb51": "w (1).avi 1 \nw2.avi 2 \nw3.avi 0 \n",
    "mini_kinetics": "a_000001_000011 2\nb_000001_000011 1\n",
    "gym99": "a.avi 1\nb.avi 0\n",
    "charades": 'id,script,actions\nAB1,"x, y",c001 0.0 1.0;c000 2.0 9.5\n',
    "diving48": '[{"vid_name": "x_1", "label": 1}, {"vid_name": "x_2", "label": 5}]',
}
ROUNDS = int(os.environ.get("SIGMA_FUZZ", "400"))


def _mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bits, a cut, a run of zeros or 0xff, swapped or doubled pieces."""
    out, kind = bytearray(data), rng.integers(6)
    a, b = sorted(int(x) for x in rng.integers(len(out), size=2))
    if kind == 0:
        for position in rng.integers(len(out), size=rng.integers(1, 9)):
            out[position] ^= 1 << rng.integers(8)
    elif kind == 1:
        del out[a:]
    elif kind == 2:
        out[a : a + 16] = bytes(len(out[a : a + 16]))
    elif kind == 3:
        out[a : a + 10] = b"\xff" * len(out[a : a + 10])
    elif kind == 4:
        out[a : a + 8], out[b : b + 8] = out[b : b + 8], out[a : a + 8]
    else:
        out[a:a] = out[a : a + 64]
    return bytes(out)


def _sources(folder: Path) -> dict[str, Path]:
    """One shard of two records per payload."""
    shards = {}
    for kind in ("video", "jpeg"):
        record, _ = payload.store(CLIP.read_bytes(), payload.Payload(kind, short_side=32, quality=50))
        if kind == "jpeg":
            record = replace(record, frames=record.frames[:5], num_frames=5)
        (folder / kind).mkdir()
        shards[kind] = folder / kind / records.shard_name("fuzz", "train", 0, 1)
        with records.ShardWriter(shards[kind]) as writer:
            for number in range(2):
                writer.write(replace(record, key=f"{number}.webm", label=number))
    return shards


def test_mutated_shards_give_the_records_or_a_reason(tmp_path):
    outcomes, rng = Counter(), np.random.default_rng(0)
    for kind, shard in _sources(tmp_path).items():
        good = shard.read_bytes()
        expected = [records.RecordSource(shard.parent, "train").read_whole(i) for i in range(2)]
        for _ in range(ROUNDS // 2):
            shard.write_bytes(_mutate(good, rng))
            next(shard.parent.glob("*.npz")).unlink(missing_ok=True)
            try:
                source = records.RecordSource(shard.parent, "train")
            except records.DataSetError:
                outcomes[kind, "no index"] += 1
                (shard.parent / "fuzz-train.index.npz").touch()
                continue
            for index in range(len(source)):
                try:
                    found = source.read_whole(index)
                    assert tuple(source[index].frames) == tuple(found.frames)
                except records.BadRecord:
                    outcomes[kind, "bad record"] += 1
                else:
                    assert found in expected
                    outcomes[kind, "good"] += 1
    assert all(outcomes[kind, outcome] for kind in ("video", "jpeg") for outcome in ("bad record", "good", "no index"))


def _whole_set(folder: Path) -> list[schema.Record]:
    """A data set of two records in two shards with all its sidecars; the records."""
    record, _ = payload.store(CLIP.read_bytes(), payload.Payload("jpeg", short_side=32, quality=50))
    record = replace(record, frames=record.frames[:2], num_frames=2)
    kept = [replace(record, key=f"{i}.webm", label=i, label_name=name) for i, name in enumerate(("to sit", "to run"))]
    for shard, one in enumerate(kept):
        with records.ShardWriter(folder / records.shard_name("fuzz", "train", shard, 2)) as writer:
            writer.write(one)
    size = sum(path.stat().st_size for path in folder.iterdir())
    metadata.write_metadata(folder, "fuzz", "train", [1, 1], size, "jpeg")
    metadata.write_label_map(folder, ["to sit", "to run"])
    report = {"videos": 2, "label_hash": metadata.label_hash(["to sit", "to run"]), "videos_per_class": {"to sit": 1}}
    metadata.write_json(folder / metadata.REPORT, {"train": report})
    records.build_index(folder, "train")
    return kept


def _read_all(folder: Path) -> list[schema.Record]:
    source = open_source(folder, "train")
    assert list(source.classes) in ([], ["to sit", "to run"])
    read_classes(folder)
    found = [source.read_whole(i) for i in range(len(source))]
    assert [tuple(source[i].frames) for i in range(len(source))] == [record.frames for record in found]
    return found


SIDECARS = [metadata.INFO, metadata.FEATURES, metadata.REPORT, metadata.LABEL_MAP, "fuzz-train.index.npz"]


@pytest.mark.parametrize("name", SIDECARS)
def test_mutated_sidecars_are_named_or_change_nothing(name, tmp_path):
    expected, outcomes, rng = _whole_set(tmp_path), Counter(), np.random.default_rng(3)
    path, good = tmp_path / name, (tmp_path / name).read_bytes()
    for _ in range(ROUNDS // len(SIDECARS)):
        path.write_bytes(_mutate(good, rng))
        try:
            assert _read_all(tmp_path) == expected
            outcomes["good"] += 1
        except records.DataSetError as error:
            assert name in str(error), error
            outcomes["named"] += 1
    assert outcomes["named"] > ROUNDS // 40
    path.write_bytes(good)
    assert _read_all(tmp_path) == expected


def test_swapped_lines_of_a_label_map_are_found_with_and_without_a_report(tmp_path):
    _whole_set(tmp_path)
    metadata.write_label_map(tmp_path, ["to run", "to sit"])
    with pytest.raises(records.DataSetError, match="label_map.txt has hash"):
        open_source(tmp_path, "train")
    (tmp_path / metadata.REPORT).unlink()
    loader = measuring(tmp_path, global_batch=2, num_frames=1)
    with pytest.raises(records.DataSetError, match="its class 0 is 'to sit', and 'to run' in label_map.txt"):
        next(loader)


@pytest.mark.parametrize("witness", [metadata.INFO, metadata.REPORT])
def test_a_shard_cut_between_records_is_found_without_its_index(witness, tmp_path):
    kept = _whole_set(tmp_path)
    with records.ShardWriter(tmp_path / records.shard_name("fuzz", "train", 1, 2)):
        pass
    for name in {metadata.INFO, metadata.REPORT, "fuzz-train.index.npz"} - {witness}:
        (tmp_path / name).unlink()
    with pytest.raises(records.DataSetError, match=f"{witness} promises 2 records of 'train'.*there are 1"):
        open_source(tmp_path, "train")
    assert len(kept) == 2


def test_indexes_with_other_numbers_are_named_or_lead_to_bad_records(tmp_path):
    expected, outcomes, rng = _whole_set(tmp_path), Counter(), np.random.default_rng(4)
    path = tmp_path / "fuzz-train.index.npz"
    with np.load(path) as file:
        good = dict(file)
    for _ in range(60):
        arrays = {name: array.copy() for name, array in good.items()}
        name = list(arrays)[rng.integers(3)]
        kind = rng.integers(4)
        if kind == 0:
            arrays[name][rng.integers(len(arrays[name]))] += rng.integers(-40, 40)
        elif kind == 1:
            arrays[name] = arrays[name][: rng.integers(len(arrays[name]))]
        elif kind == 2:
            arrays[name] = arrays[name].astype(rng.choice(["float64", "int32", "S4", "bool"]))
        else:
            arrays[name] = arrays[name].reshape(-1, 1)
        np.savez(path, **arrays)
        try:
            assert _read_all(tmp_path) == expected
            outcomes["good"] += 1
        except (records.DataSetError, records.BadRecord) as error:
            assert path.name in str(error) or isinstance(error, records.BadRecord)
            outcomes[type(error).__name__] += 1
    assert outcomes["DataSetError"] > 30


def test_mutated_features_of_others_are_read_or_named(tmp_path):
    video = {"pythonClassName": "x.Video", "sequence": {"feature": {"pythonClassName": "x.Image"}}}
    pixels = {
        "pythonClassName": "x.Tensor",
        "tensor": {"shape": {"dimensions": ["8", "32", "32", "3"]}, "dtype": "uint8"},
    }
    label = {"pythonClassName": "x.ClassLabel", "classLabel": {"numClasses": "3"}}
    path, rng, outcomes = tmp_path / metadata.FEATURES, np.random.default_rng(5), Counter()
    for feature in (video, pixels):
        text = json.dumps({"featuresDict": {"features": {"clip": feature, "label": label}}}).encode()
        for _ in range(ROUNDS // 4):
            path.write_bytes(_mutate(text, rng))
            try:
                tfds_sets.holds_stills(tmp_path)
                outcomes[type(tfds_sets.find_reader(tmp_path)).__name__] += 1
            except records.DataSetError as error:
                assert path.name in str(error)
                outcomes["named"] += 1
    assert outcomes["named"] and outcomes["FeatureReader"]


def test_lost_lines_of_class_names_are_named(tmp_path):
    label = {"pythonClassName": "x.ClassLabel", "classLabel": {"numClasses": "3"}}
    video = {"pythonClassName": "x.Video", "sequence": {"feature": {"pythonClassName": "x.Image"}}}
    metadata.write_json(tmp_path / metadata.FEATURES, {"featuresDict": {"features": {"clip": video, "label": label}}})
    for lines in ("a\nb\nc\n", "a\nb\u2028\nc"):
        (tmp_path / "label.labels.txt").write_text(lines, "utf-8")
        assert len(tfds_sets.class_names(tmp_path)) == 3
    (tmp_path / "label.labels.txt").write_text("a\nb\n")
    with pytest.raises(records.DataSetError, match="label.labels.txt is damaged .2 lines, features.json states 3"):
        tfds_sets.class_names(tmp_path)


def _middle(height: int, width: int) -> tuple[int, int, int, int]:
    return height // 4, width // 4, max(height // 2, 1), max(width // 2, 1)


def test_mutated_payloads_are_a_record_or_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(jpeg_crop, "MIN_PIXELS", 0)
    outcomes, rng = Counter(), np.random.default_rng(1)
    payloads = []
    for shard in _sources(tmp_path).values():
        payloads.append(schema.encode_record(records.RecordSource(shard.parent, "train").read_whole(0)))
    tracemalloc.start()
    for number in range(ROUNDS):
        data = _mutate(payloads[number % 2], rng)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            schema.read_head(data, len(data))
            record = schema.decode_record(data)
        except ValueError:
            outcomes["no record"] += 1
            continue
        finally:
            assert tracemalloc.get_traced_memory()[1] - before < 2 * len(data) + 2**14
        if number % 8 > 1:
            continue
        try:
            choose_box = _middle if number % 4 == 1 else None
            clips.decode_record(record, np.array([0, 3]), record.num_frames or None, choose_box=choose_box)
            outcomes["frames"] += 1
        except BadVideo:
            outcomes["bad video"] += 1
    tracemalloc.stop()
    assert outcomes["no record"] and outcomes["frames"] + outcomes["bad video"] > ROUNDS // 16


def test_mutated_lists_are_videos_or_a_reason(tmp_path):
    outcomes, rng = Counter(), np.random.default_rng(2)
    (tmp_path / "videos/frames").mkdir(parents=True)
    for name in ("-a.mp4", "v_1.avi", "w (1).avi", "x_1.mp4", "7.webm", "AB1.mp4", "a.avi", "d_f_000000_000010.mp4"):
        (tmp_path / "videos" / name).touch()
    for name, listed in LISTS.items():
        spec = list_formats.ListSpec(tmp_path / "list", tmp_path / "videos")
        for _ in range(ROUNDS // len(LISTS)):
            (tmp_path / "list").write_bytes(_mutate(listed.encode(), rng))
            try:
                found, names = list_formats.read_list(name, spec)
            except ValueError as error:
                assert f"{tmp_path / 'list'}" in str(error)
                outcomes["no list"] += 1
                continue
            assert all(entry.path.exists() for entry in found.entries)
            labels, _ = number_labels(found.entries, names)
            assert all(label >= -1 for label in labels.values())
            outcomes["video"] += len(found.entries)
            outcomes["refused"] += len(found.refused)
    assert min(outcomes[kind] for kind in ("no list", "video", "refused")) > ROUNDS // 40
