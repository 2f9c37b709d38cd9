"""How programs are compiled: once, ahead of the first call, kept on disk, and without keeping the compiler's memory."""

import ctypes
import os
from pathlib import Path
from typing import Any

import jax


class CompiledOnce:
    """A jitted function for one set of shapes and shardings, compiled at its first call.

    Other shapes are a TypeError, never a second compilation. Compiling frees half a GiB that the C library would keep
    for the life of the process; it is handed back before the first execution allocates its buffers.
    """

    def __init__(self, jitted: Any):
        self.lower, self.trace = jitted.lower, jitted.trace
        self._program: Any = None

    def __call__(self, *args: Any) -> Any:
        if self._program is None:
            self._program = self.lower(*args).compile()
            release_free_memory()
        return self._program(*args)


def release_free_memory() -> None:
    """Gives free memory back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def use_compilation_cache() -> None:
    """Compiled programs are kept between runs, unless JAX_COMPILATION_CACHE_DIR says where (or is empty: nowhere)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "sigma_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def quick_compilation() -> dict | None:
    """Compiler options for code that runs once: on a CPU, no optimisation (a fifth of the time)."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
