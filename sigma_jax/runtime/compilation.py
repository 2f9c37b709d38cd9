"""Compilation: each program once, cached on disk between runs, with the compiler's memory given back afterwards."""

import contextlib
import os
import tempfile
from pathlib import Path

import jax

from sigma_jax.runtime.execution import keep_freed_memory, release_free_memory
from sigma_jax.runtime.logs import telling
from sigma_jax.runtime.trees import Tree


class CompiledOnce:
    """A jitted function for one set of shapes and shardings, compiled at its first call.

    Other shapes are a TypeError, never a second compilation. After compiling, the C library (glibc) holds about half a
    GiB of freed memory; it is returned to the system before the first execution allocates its buffers. What the steps
    free on a CPU is kept for the next one.
    """

    def __init__(self, jitted: jax.stages.Wrapped):
        self.lower, self.trace = jitted.lower, jitted.trace
        self._program: jax.stages.Compiled | None = None

    def __call__(self, *args: Tree) -> Tree:
        if self._program is None:
            with telling("compiling the training step, once: the result is kept for later starts"):
                self._program = self.lower(*args).compile()
            release_free_memory()
            keep_freed_memory()
        return self._program(*args)

    def as_text(self) -> str:
        """The text (HLO) of the compiled program; it must have been called before."""
        return self._program.as_text()


def cache_folder() -> str:
    """Where compiled programs are kept between runs; "" where they are not.

    JAX_COMPILATION_CACHE_DIR decides (empty: no cache). Without it this is the user's cache folder or, where the user
    has no home or cannot write to it, as in many containers, a folder in the one for temporary files.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return os.environ["JAX_COMPILATION_CACHE_DIR"]
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no $HOME, and a user that the system does not know
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sigma_jax" / "xla"
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return str(home)
    with contextlib.suppress(OSError):
        shared = Path(tempfile.gettempdir()) / f"sigma_jax_{os.getuid()}"
        shared.mkdir(mode=0o700, exist_ok=True)
        # A folder of another user is not trusted: cached programs are executed.
        if shared.stat().st_uid == os.getuid() and not shared.is_symlink():
            return str(shared / "xla")
    return ""


def use_compilation_cache() -> str:
    """Turns the cache on; returns a sentence for the log where it is in an unusual place or off, else ""."""
    folder = cache_folder()
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return ""
    if not folder:
        return "compiled programs are not kept: neither the home nor the temporary folder can be written"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    usual = "sigma_jax_" not in folder
    return "" if usual else f"compiled programs are kept in {folder}, because no home folder can be written"


def step_compilation(platform: str, fp8: bool = False) -> dict[str, bool] | None:
    """Compiler options for a training step; XLA_FLAGS that name the same ones win.

    On a GPU, products go to cuBLASLt, which adds biases and residuals itself, unless they end in operations that only a
    kernel generated around them can do (scores that are written as 16-bit numbers). Those are never split up again: the
    compiler would try it, time it, and where that is faster write the scores in fp32 first. With products of 8-bit
    numbers no kernels are generated: they would multiply 16-bit numbers.

    Args:
      fp8: some of the step's products are of 8-bit numbers.
    """
    options = ("xla_gpu_enable_triton_gemm",) if fp8 else ("xla_gpu_triton_gemm_any", "xla_gpu_cublas_fallback")
    given = os.environ.get("XLA_FLAGS", "")
    return {name: False for name in options if name not in given} or None if platform == "gpu" else None


def quick_compilation() -> dict | None:
    """Compiler options for code that runs once: on a CPU, no optimisation (a fifth of the time)."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
