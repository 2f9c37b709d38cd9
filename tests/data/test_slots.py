"""Clips come through shared memory unchanged; the memory is used again, given back, and asked for politely."""

import errno
import multiprocessing
import os
import pickle
from pathlib import Path

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
    through.close()  # while the worker waits for a slot
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs Linux")
def test_slots_are_reserved_and_have_no_name(monkeypatch):
    """So a full /dev/shm is found before the first clip, and nothing stays there, whoever is killed and when."""
    before, made = set(os.listdir("/dev/shm")), slots.Slots(2, 3, 2**20)
    assert not {name for name in set(os.listdir("/dev/shm")) - before if not name.startswith("sem.")}
    assert os.fstat(made._file.fileno()).st_blocks * 512 >= 6 * 2**20
    copy = pickle.loads(pickle.dumps(made))
    number, video = copy.take((4, 5))
    video[:] = 7
    seen = np.zeros((4, 5), np.uint8)
    made.empty(number, seen)
    assert (seen == 7).all()
    made.close()


def test_too_little_shared_memory_is_said_before_anything_is_read(monkeypatch):
    def full(file, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(slots.TooLittleMemory, match="4 data workers need 120 MiB .*, and /dev/shm does"):
        slots.Slots(4, 3, 10 * 2**20)
