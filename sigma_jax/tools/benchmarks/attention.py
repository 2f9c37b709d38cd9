"""Mode `attention`: forward, and forward with backward, of one attention call.

Letters: B clips, N tokens, H heads, d head width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from sigma_jax.ops.attention import attend, check_backend
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS
from sigma_jax.train.flops import mfu

flags.DEFINE_list(
    "shape", ["2", "1568", "3", "64"], "B,N,H,d; default: a ViT-S decoder block of two clips.", flag_values=OPTIONS
)
flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Number type; default bfloat16, on CPU float32.", flag_values=OPTIONS
)
flags.DEFINE_string("backend", "auto", "Attention backend.", flag_values=OPTIONS)


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row of --shape; `overrides` must be empty."""
    if overrides or len(OPTIONS.shape) != 4 or not all(n.isdigit() for n in OPTIONS.shape):
        raise InvalidValue(
            f"attention takes --shape=B,N,H,d and no --config values, got {OPTIONS.shape} and {overrides}"
        )
    shape = tuple(int(n) for n in OPTIONS.shape)
    backend = check_backend(OPTIONS.backend)
    dtype = OPTIONS.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    q, k, v = jax.random.normal(jax.random.key(0), (3, *shape), dtype)

    forward = jax.jit(lambda q, k, v: attend(q, k, v, backend))
    backward = jax.jit(jax.grad(lambda q, k, v: jnp.sum(attend(q, k, v, backend).astype(jnp.float32) ** 2), (0, 1, 2)))
    only_forward = timing.time_calls(lambda: forward(q, k, v))["median_s"]
    timed = timing.time_calls(lambda: backward(q, k, v))
    batch, tokens, heads, width = shape
    products = 4.0 * batch * heads * tokens**2 * width  # FLOPs of q k^T and of weights v
    return {
        "mode": "attention",
        "shape": list(shape),
        "batch": batch,
        "backend": backend,
        "dtype": dtype,
        **timed,
        "forward_s": only_forward,
        "clips_per_s": batch / timed["median_s"],
        "forward_tflops": products / only_forward / 1e12,
        "tflops": 3 * products / timed["median_s"] / 1e12,
        "mfu": mfu(3 * products / batch, batch / timed["median_s"], jax.devices()),
        **timing.memory(),
        **timing.machine(),
    }
