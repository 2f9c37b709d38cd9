"""Clips come through shared memory unchanged; the memory is used again, given back, and asked for politely."""

import multiprocessing
import os
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sigma_jax.data import loader, records, slots
from tests.data.loaders import measuring, training

CLIP = Path(__file__).parent / "clips" / "sign" / "milk.webm"
SETTINGS = {"num_frames": 3, "frame_stride": 2, "image_size": 32}


@pytest.fixture
def shards(tmp_path):
    with records.ShardWriter(tmp_path / records.shard_name("toy", "train", 0, 1)) as writer:
        for number in range(7):
            writer.write(records.Record(CLIP.read_bytes() if number != 2 else b"damaged", f"{number}.webm", number))
    return tmp_path


def test_slots_carry_no_old_rows(shards, monkeypatch):
    monkeypatch.setattr(loader, "_CHUNK_BYTES", 2 * 3 * 32 * 32 * 3)  # chunks of two clips
    here, through = (
        measuring(shards, global_batch=4, num_workers=n, allow_incomplete=True, **SETTINGS) for n in (0, 1)
    )
    for expected, batch in zip(here, through, strict=True):
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name], err_msg=name)
        assert not batch["video"][batch["weight"] == 0].any()
    assert not batch["weight"][-1], "the last batch has padding"
    through.close()


def test_more_chunks_than_slots_and_an_early_end(shards):
    here, through = (
        training(shards, global_batch=2, num_workers=n, seed=0, max_bad_fraction=1.0, **SETTINGS) for n in (0, 1)
    )
    kept = [next(through) for _ in range(12)]  # what was handed out is not written to again
    for batch in kept:
        np.testing.assert_array_equal(batch["video"], next(here)["video"])
    here.close()
    names = [slot.name for slot in through._slots._slots]
    assert len(names) == 2 + 1
    for name in names:  # in use, but nothing is left if all processes are killed now
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)
    through.close()  # while the worker waits for a slot
    assert not multiprocessing.active_children()


def test_too_little_shared_memory_is_said_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=64, f_frsize=2**20))
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    with pytest.raises(OSError, match=r"4 data workers need 120 MiB of shared memory, /dev/shm has 64 free"):
        slots.Slots(4, 3, 10 * 2**20)
    unused = slots.Slots(2, 3, 2**20)
    names = [slot.name for slot in unused._slots]
    unused.close()
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)
