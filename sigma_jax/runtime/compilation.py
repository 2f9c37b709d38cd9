"""How programs are compiled: once, ahead of the first call, kept on disk, and without keeping the compiler's memory."""

import contextlib
import ctypes
import os
import tempfile
from pathlib import Path

import jax

from sigma_jax.runtime.logs import telling
from sigma_jax.runtime.trees import Tree


class CompiledOnce:
    """A jitted function for one set of shapes and shardings, compiled at its first call.

    Other shapes are a TypeError, never a second compilation. Compiling frees half a GiB that the C library would keep
    for the life of the process; it is handed back before the first execution allocates its buffers.
    """

    def __init__(self, jitted: jax.stages.Wrapped):
        self.lower, self.trace = jitted.lower, jitted.trace
        self._program: jax.stages.Compiled | None = None

    def __call__(self, *args: Tree) -> Tree:
        if self._program is None:
            with telling("compiling the training step, once: the result is kept for later starts"):
                self._program = self.lower(*args).compile()
            release_free_memory()
        return self._program(*args)

    def as_text(self) -> str:
        """The compiled program in the compiler's language (HLO), once it was called."""
        return self._program.as_text()


def release_free_memory() -> None:
    """Gives free memory back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def cache_folder() -> str:
    """Where compiled programs are kept between runs; "" where they are not.

    JAX_COMPILATION_CACHE_DIR decides (empty: nowhere). Otherwise it is the user's cache folder; one of its own in the
    folder for temporary files where the user has no home, or may not write there, as in many containers.
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
        if shared.stat().st_uid == os.getuid() and not shared.is_symlink():  # programs of strangers are not run
            return str(shared / "xla")
    return ""


def use_compilation_cache() -> str:
    """Turns the cache on; returns a sentence for the log where it is not where one would expect it, else ""."""
    folder = cache_folder()
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return ""
    if not folder:
        return "compiled programs are not kept: neither the home nor the temporary folder can be written"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return f"compiled programs are kept in {folder}, as there is no home" if "sigma_jax_" in folder else ""


def quick_compilation() -> dict | None:
    """Compiler options for code that runs once: on a CPU, no optimisation (a fifth of the time)."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
