"""Clips come through shared memory unchanged; the memory is reused, released, and checked for space first."""

import errno
import gc
import multiprocessing
import os
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest

from sigma_jax.data import loader, records
from sigma_jax.data.slots import LENT, Rooms, Slots, TooLittleMemory
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
def test_memory_is_reserved_and_has_no_name():
    """So a full /dev/shm is found before the first clip, and nothing stays there, whoever is killed and when."""
    made = Slots(Rooms(3, 2, 2**20))
    assert os.readlink(made._path).endswith(" (deleted)")
    assert os.fstat(made._file.fileno()).st_blocks * 512 >= 6 * 2**20
    made.close()


def _fill(slots: Slots, batch: int) -> None:
    for part in range(slots.rooms.chunks):
        slots.take(batch * slots.rooms.chunks + part, (2, 5))[:] = 10 * batch + part


def test_batches_are_lent_and_their_room_is_used_again_when_nobody_refers_to_it():
    main = Slots(Rooms(4, 3, 10), first_batch=7)
    worker = pickle.loads(pickle.dumps(main))
    kept, copied = [], []
    for batch in range(7, 25):
        _fill(worker, batch)
        video = main.hand_out(batch, (6, 5))
        assert video[:, 0].tolist() == [10 * batch + part for part in (0, 0, 1, 1, 2, 2)]
        lent = np.shares_memory(video, main._memory)
        (kept if lent and len(kept) < 1 else copied).append((batch, video[2:4]))  # a part keeps all of it
        del video
    assert [batch for batch, _ in kept] == [7] and len(main._lent) == LENT
    for batch, part in kept + copied:
        assert (part == 10 * batch + 1).all(), "what was handed out is not written to again"
    del kept, copied, part
    gc.collect()
    assert not main._lent
    worker.release()
    assert not worker.take(999, (2, 5)).any()  # ends, and writes to no room
    main.close()


def test_devices_may_refer_to_lent_memory(shards):
    """Arrays of the CPU's devices can be the lent memory itself: it is not written to while they live."""
    here, through = (training(shards, global_batch=4, num_workers=n, max_bad_fraction=1.0, **SETTINGS) for n in (0, 1))
    kept = [jax.device_put(next(through)["video"]) for _ in range(8)]
    for array in kept:
        np.testing.assert_array_equal(array, next(here)["video"])
    here.close()
    through.close()
    np.testing.assert_array_equal(kept[0], np.asarray(kept[0]))


def test_too_little_shared_memory_is_said_before_anything_is_read(monkeypatch):
    def full(file, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TooLittleMemory, match="the data workers need 120 MiB .*, and /dev/shm does"):
        Slots(Rooms(4, 3, 10 * 2**20))
