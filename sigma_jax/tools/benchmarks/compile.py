"""Mode `compile`: seconds to trace and compile the training step, cold and from the persistent cache."""

import tempfile
import time
from typing import Any

import jax

from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS
from sigma_jax.tools.benchmarks.synthetic import prepare
from sigma_jax.train.program import Program


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row of the step that --config, --batch and `overrides` describe; nothing is executed.

    --repeats and --warmup do not apply: a compilation is measured once cold and once from the cache.
    """
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        cold, compiled, lines = _compile(prepare(overrides))
        jax.clear_caches()
        warm, _, _ = _compile(prepare(overrides))
    sizes = compiled.memory_analysis()
    return {
        "mode": "compile",
        "config": " ".join([OPTIONS.config, *(f"{name}={value}" for name, value in overrides.items())]),
        "batch": OPTIONS.batch,
        "median_s": cold["trace_s"] + cold["compile_s"],
        **cold,
        **{f"warm_{name}": value for name, value in warm.items()},
        "stablehlo_lines": lines,
        "argument_mb": sizes.argument_size_in_bytes / 2**20,
        "temporary_mb": sizes.temp_size_in_bytes / 2**20,
        **timing.memory(),
        **timing.machine(),
    }


def _compile(program: Program) -> tuple[dict[str, float], jax.stages.Compiled, int]:
    """(wall and processor seconds, compiled program, lines of its StableHLO)."""
    cpu, start = time.process_time(), time.perf_counter()
    lowered = program.lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = {
        "trace_s": traced - start,
        "compile_s": time.perf_counter() - traced,
        "compile_cpu_s": time.process_time() - cpu,
    }
    return seconds, compiled, lowered.as_text().count("\n")
