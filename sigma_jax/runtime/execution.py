"""How programs run on this machine: on which platform, and what becomes of memory that a step on a CPU frees."""

import ctypes

import jax

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def choose_platform(name: str | None) -> None:
    """Makes JAX use a platform ("cpu", "cuda", "tpu"; None: the best one), before it has been started.

    A program for one CPU device runs in the thread that calls it, so that its buffers come out of that thread's memory,
    which `keep_freed_memory` is about. Other platforms and programs of several devices are not affected.
    """
    if name:
        jax.config.update("jax_platforms", name)
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def keep_freed_memory() -> None:
    """Lets a process with one CPU device keep what it frees, where the C library can (glibc), for the next step.

    Otherwise each large buffer goes back to the system when a step ends, and the next step gets it back page by page,
    zeroed: a tenth to a quarter of the step's processor time (launch/BENCHMARKS.md).
    """
    if jax.default_backend() == "cpu" and jax.local_device_count() == 1:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, -1)


def release_free_memory() -> None:
    """Returns freed memory to the system, where the C library supports it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
