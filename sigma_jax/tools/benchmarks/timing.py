"""Timing of jitted calls, memory of the process, and the row that every mode fills."""

import collections
import os
import resource
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from sigma_jax.tools.benchmarks.options import OPTIONS

_EVENTS: collections.Counter[str] = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: _EVENTS.update({event: seconds}))
jax.monitoring.register_event_listener(lambda event, **_: _EVENTS.update({event: 1}))


def compiling() -> dict[str, float]:
    """Seconds that this process has spent in the compiler, and how often the compilation cache had the program."""

    def total(ending: str) -> float:
        return sum(value for event, value in _EVENTS.items() if event.endswith(ending))

    return {
        "compiler_s": total("backend_compile_duration"),
        "cache_hits": int(total("compilation_cache/cache_hits")),
        "cache_misses": int(total("compilation_cache/cache_misses")),
    }


def process_age() -> float:
    """Seconds since this process was started (Linux)."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        started = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return float(uptime.read().split()[0]) - started


def time_calls(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds per call over --repeats calls after --warmup ones.

    One call is in flight while the next is dispatched, as in training; a call's time is the distance between the ends
    of two calls. With --trace, three further calls are recorded.

    Args:
      call: dispatches the work and returns something to wait for.

    Returns:
      median_s, p10_s, p90_s, cpu_s (processor seconds per call, all threads), repeats; since_start_s, from the start of
      the process to the end of the first call; and what `compiling` says then.
    """
    jax.block_until_ready(call())
    first = {"since_start_s": process_age(), **compiling()}
    for _ in range(OPTIONS.warmup - 1):
        jax.block_until_ready(call())
    waiting, ends = call(), []
    cpu_start = time.process_time()
    for _ in range(OPTIONS.repeats + 1):
        following = call()
        jax.block_until_ready(waiting)
        ends.append(time.perf_counter())
        waiting = following
    jax.block_until_ready(waiting)
    cpu = (time.process_time() - cpu_start) / (OPTIONS.repeats + 2)
    if OPTIONS.trace:
        with jax.profiler.trace(OPTIONS.trace):
            for _ in range(3):
                jax.block_until_ready(call())
    seconds = np.diff(ends)
    low, median, high = np.quantile(seconds, [0.1, 0.5, 0.9]).tolist()
    return {"median_s": median, "p10_s": low, "p90_s": high, "cpu_s": cpu, "repeats": OPTIONS.repeats, **first}


def machine() -> dict[str, Any]:
    """Platform, device, count and versions: what a row needs to be comparable."""
    device = jax.devices()[0]
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "flax"))
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "versions": versions,
    }


def memory() -> dict[str, float | None]:
    """peak_rss_mb: largest resident size of this process (MiB, `ru_maxrss`); peak_device_mb: of the first device."""
    stats = jax.local_devices()[0].memory_stats() or {}
    device = stats.get("peak_bytes_in_use")
    return {
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_device_mb": device / 2**20 if device is not None else None,
    }


def copy_rate(shape: tuple[int, ...], dtype: DTypeLike) -> float:
    """Bytes per second, read and written, of copying an array of that shape: the memory's practical speed."""
    source = jax.block_until_ready(jax.jit(lambda: jax.numpy.ones(shape, dtype))())
    copy = jax.jit(jax.numpy.copy)
    jax.block_until_ready(copy(source))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(copy(source))
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / float(np.median(seconds))
