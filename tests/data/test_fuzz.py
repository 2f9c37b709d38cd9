"""Mutated records, pictures and lists: no crash, only errors that say what is wrong, and no huge allocation.

SIGMA_FUZZ=100000 python -m pytest tests/data/test_fuzz.py runs more of them.
"""

import os
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from sigma_jax.data import clips, jpeg_crop, records, schema
from sigma_jax.data.decode import BadVideo
from sigma_jax.datasets import list_formats, payload
from sigma_jax.datasets.numbering import number_labels

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
