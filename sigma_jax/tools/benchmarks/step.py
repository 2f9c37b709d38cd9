"""Mode `step`: seconds, clips per second, model FLOPs and memory of one training step on synthetic uint8 clips."""

import gzip
from typing import Any

import jax

from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS
from sigma_jax.tools.benchmarks.synthetic import prepare, stepper
from sigma_jax.train.flops import mfu


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row of the step that --config, --batch and `overrides` describe."""
    program = prepare(overrides)
    if OPTIONS.compile_only:
        program.lower().compile()
        return {"mode": "step", "median_s": timing.process_age(), "compiled_only": True, **timing.compiling()}
    timed = timing.time_calls(stepper(program))
    if OPTIONS.hlo:
        with gzip.open(OPTIONS.hlo, "wt") as file:
            file.write(program.step.as_text())
    plan, compute = program.plan, program.task.compute
    rate = plan.batch_size / timed["median_s"]
    flops = sum(program.task.flops().values())
    return {
        "mode": "step",
        "config": " ".join([OPTIONS.config, *(f"{name}={value}" for name, value in overrides.items())]),
        "batch": plan.batch_size,
        "accumulation": plan.accumulation,
        **timed,
        "clips_per_s": rate,
        "clips_per_cpu_s": plan.batch_size / timed["cpu_s"],
        "gflop_per_clip": flops / 1e9,
        "tflops": flops * rate / 1e12,
        "mfu": mfu(flops, rate, jax.devices()),
        **timing.memory(),
        "dtype": jax.numpy.dtype(compute.dtype).name,
        "attention": compute.backend,
        "remat": compute.remat,
        "unroll": compute.unroll,
        **timing.machine(),
    }
