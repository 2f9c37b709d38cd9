"""Mode `objective`: Sinkhorn, assignment and cross-entropy of one side's scores, against the memory's speed.

Letters: n tokens, K prototypes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from sigma_jax.models.prototypes import unit_rows
from sigma_jax.objective.cross_entropy import cross_entropy
from sigma_jax.ops.scores import keep_scores, platform_sweeps
from sigma_jax.ops.sinkhorn import hard_assignments, prototype_scalings
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS

flags.DEFINE_integer("tokens", 8192, "Rows of the score matrix.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("prototypes", 3000, "Columns of the score matrix.", lower_bound=2, flag_values=OPTIONS)
flags.DEFINE_integer("iterations", 10, "Sinkhorn iterations.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_float("epsilon", 0.05, "Sinkhorn's epsilon.", flag_values=OPTIONS)
flags.DEFINE_float("temperature", 0.1, "Temperature of the softmax.", flag_values=OPTIONS)
flags.DEFINE_string("sweep_dtype", "auto", "Number type in which the scores are stored.", flag_values=OPTIONS)


def sample_sides(key: jax.Array, tokens: int, prototypes: int, width: int = 256) -> tuple[jax.Array, jax.Array]:
    """Features [n E] and prototypes [K E]: unit vectors that share a direction, as features in training do."""
    keys = jax.random.split(key, 3)
    shared = jax.random.normal(keys[0], (1, width))
    features = unit_rows(jax.random.normal(keys[1], (tokens, width)) + shared)
    return features, unit_rows(jax.random.normal(keys[2], (prototypes, width)) + shared)


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row of --tokens x --prototypes scores; `overrides` must be empty."""
    if overrides:
        raise InvalidValue(f"objective takes no --config values, got {overrides}")
    shape = (OPTIONS.tokens, OPTIONS.prototypes)
    features, prototypes = jax.jit(sample_sides, static_argnums=(1, 2))(jax.random.key(0), *shape)
    labels = jax.random.randint(jax.random.key(1), shape[:1], 0, shape[1])

    sweeps = platform_sweeps(jax.default_backend(), OPTIONS.sweep_dtype)

    def assign(scores):
        settings = {"epsilon": OPTIONS.epsilon, "num_iters": OPTIONS.iterations, "sweeps": sweeps}
        scalings, _ = prototype_scalings(scores, **settings)
        return hard_assignments(scores, scalings, OPTIONS.epsilon, sweeps.block_rows)

    scores = jax.jit(keep_scores, static_argnums=2)(features, prototypes, sweeps)

    def forward(features, scores):
        loss = cross_entropy(features, prototypes, scores, labels, OPTIONS.temperature, sweeps)
        return loss, assign(scores)

    programs = {
        "sinkhorn": jax.jit(lambda _, scores: assign(scores)),
        "forward": jax.jit(forward),
        "backward": jax.jit(jax.grad(forward, has_aux=True)),
    }
    rows = {name: timing.time_calls(partial(program, features, scores)) for name, program in programs.items()}
    rate = timing.copy_rate(shape, jnp.float32)
    seconds = rows["forward"]["median_s"]
    bound = (OPTIONS.iterations + 1) * 4 * scores.size / rate  # one fp32 read per iteration and one for the assignment
    return {
        "mode": "objective",
        "shape": list(shape),
        "batch": OPTIONS.tokens,
        **rows["forward"],
        "sinkhorn_s": rows["sinkhorn"]["median_s"],
        "with_backward_s": rows["backward"]["median_s"],
        "tokens_per_s": OPTIONS.tokens / seconds,
        "sweep_dtype": sweeps.dtype,
        "operands": sweeps.operands,
        "block_rows": sweeps.block_rows,
        "copy_gb_per_s": rate / 1e9,
        "one_read_bound_s": bound,
        "times_bound": seconds / bound,
        "clips_per_s": None,
        "mfu": None,
        **timing.memory(),
        **timing.machine(),
    }
