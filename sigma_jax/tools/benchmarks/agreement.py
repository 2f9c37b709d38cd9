"""Mode `agreement`: how often scores in the platform's number type choose the same prototypes as in float64.

Letters: n tokens, K prototypes.
"""

from typing import Any

import jax
import numpy as np

from sigma_jax.ops.scores import Sweeps, keep_scores, platform_sweeps
from sigma_jax.ops.sinkhorn import hard_assignments, prototype_scalings
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.objective import sample_sides
from sigma_jax.tools.benchmarks.options import OPTIONS

ROWS = 2048  # of a block in float64: the matrix itself would take gigabytes


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """Shares of tokens with an equal hard assignment, for fp32 scores and for the platform's; `overrides` is empty."""
    if overrides:
        raise InvalidValue(f"agreement takes no --config values, got {overrides}")
    shape = OPTIONS.tokens, OPTIONS.prototypes
    features, prototypes = jax.jit(sample_sides, static_argnums=(1, 2))(jax.random.key(0), *shape)
    expected = published_assignments(np.asarray(features), np.asarray(prototypes))
    forms = {"float32": Sweeps(), "platform": platform_sweeps(jax.default_backend(), OPTIONS.sweep_dtype)}

    def assign(features: jax.Array, prototypes: jax.Array, sweeps: Sweeps) -> jax.Array:
        scores = keep_scores(features, prototypes, sweeps)
        settings = {"epsilon": OPTIONS.epsilon, "num_iters": OPTIONS.iterations, "sweeps": sweeps}
        return hard_assignments(scores, prototype_scalings(scores, **settings)[0], OPTIONS.epsilon)

    row: dict[str, Any] = {"mode": "agreement", "shape": list(shape), "sweep_dtype": forms["platform"].dtype}
    for name, sweeps in forms.items():
        found = jax.jit(assign, static_argnums=2)(features, prototypes, sweeps)
        row[f"equal_{name}"] = float(np.mean(np.asarray(found) == expected))
    return row | {"median_s": timing.process_age(), **timing.machine()}


def published_assignments(features: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """[n] assignments of the published loop in float64, from its scalings; only a block of the matrix at a time."""
    epsilon, count = OPTIONS.epsilon, len(features)
    wide = prototypes.astype(np.float64)

    def blocks():
        for start in range(0, count, ROWS):
            yield features[start : start + ROWS].astype(np.float64) @ wide.T / epsilon

    masses = sum(np.exp(logits).sum(axis=0) for logits in blocks()) / count
    for _ in range(OPTIONS.iterations - 1):
        a = 1.0 / (len(wide) * masses)
        masses = np.zeros_like(a)
        for logits in blocks():
            kernel = np.exp(logits)
            masses += (1.0 / (count * (kernel @ a))) @ kernel
    log_a = -np.log(len(wide) * masses)
    return np.concatenate([np.argmax(logits + log_a, axis=1) for logits in blocks()])
