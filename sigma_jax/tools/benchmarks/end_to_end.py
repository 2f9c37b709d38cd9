"""Mode `end_to_end`: training steps fed from shards against the same compiled step on a batch that stays on the device.

Resident batch, shards, resident batch again: the ratio is to the mean of both. Also the loader alone, which bounds what
can be fed.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.sharding import shard_batch
from sigma_jax.tasks.base import Place
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS
from sigma_jax.tools.benchmarks.synthetic import prepare
from sigma_jax.train.feed import DeviceFeed
from sigma_jax.train.flops import mfu
from sigma_jax.train.program import Program

flags.DEFINE_string("data_dir", None, "Shards to train from (mode end_to_end).", flag_values=OPTIONS)
flags.DEFINE_integer("workers", 16, "Decoding processes (mode end_to_end).", lower_bound=0, flag_values=OPTIONS)


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row of --repeats steps, of --config, --batch and `overrides`, fed from --data_dir."""
    if not OPTIONS.data_dir:
        raise InvalidValue("end_to_end needs --data_dir=DIR, a folder of shards")
    program = prepare(overrides | {"data.num_workers": str(OPTIONS.workers)})
    task, clips, steps = program.task, program.plan.batch_size, OPTIONS.repeats
    scratch = tempfile.TemporaryDirectory()  # where a run would name unreadable records
    loader = task.open_data(Place(OPTIONS.data_dir, Path(scratch.name)), clips, 0)
    next(loader)
    begin = time.perf_counter()
    for _ in range(steps):
        next(loader)
    alone = steps * clips / (time.perf_counter() - begin)

    def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return shard_batch(task.mesh, {name: batch[name] for name in task.batch_keys})

    resident = place(next(loader))
    feed = DeviceFeed(loader, place, 0, steps + OPTIONS.warmup)
    state, frozen = program.init_state(), program.init_frozen()
    state, before = _run(program, (state, frozen), iter(lambda: resident, None), steps)
    state, fed = _run(program, (state, frozen), (next(feed)[1] for _ in iter(int, 1)), steps)
    state, after = _run(program, (state, frozen), iter(lambda: resident, None), steps)
    loader.close()
    scratch.cleanup()
    rate = clips / statistics.mean(fed)
    flops = sum(task.flops().values())
    return {
        "mode": "end_to_end",
        "batch": clips,
        "workers": OPTIONS.workers,
        "median_s": statistics.median(fed),
        "mean_s": statistics.mean(fed),
        "resident_median_s": statistics.median([*before, *after]),
        "ratio": statistics.mean(fed) / statistics.mean([*before, *after]),
        "clips_per_s": rate,
        "loader_clips_per_s": alone,
        "mfu": mfu(flops, rate, jax.devices()),
        **timing.memory(),
        **timing.machine(),
    }


def _run(program: Program, arrays: tuple[Any, Any], batches: Iterator, steps: int) -> tuple[Any, list[float]]:
    """(state, seconds of each step after the warm-up); metrics are fetched one step late, as in training."""
    (state, frozen), seconds, pending, before = arrays, [], None, 0.0
    for number in range(steps + OPTIONS.warmup):
        state, metrics = program.step(state, frozen, next(batches))
        if pending is not None:
            jax.block_until_ready(pending)
        pending, now = metrics, time.perf_counter()
        if number >= OPTIONS.warmup:
            seconds.append(now - before)
        before = now
    jax.block_until_ready(pending)
    return state, seconds
