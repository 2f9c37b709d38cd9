"""Mode `objective`: Sinkhorn, assignment and cross-entropy of one side's scores, against the memory's speed.

Letters: n tokens, K prototypes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from sigma_jax.models.prototypes import unit_rows
from sigma_jax.objective.cross_entropy import hard_cross_entropy
from sigma_jax.ops.sinkhorn import hard_assignments, platform_sweeps, prototype_scalings
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS

flags.DEFINE_integer("tokens", 8192, "Rows of the score matrix.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("prototypes", 3000, "Its columns.", lower_bound=2, flag_values=OPTIONS)
flags.DEFINE_integer("iterations", 10, "Sinkhorn's.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_float("epsilon", 0.05, "Sinkhorn's.", flag_values=OPTIONS)
flags.DEFINE_float("temperature", 0.1, "The softmax's.", flag_values=OPTIONS)
flags.DEFINE_string("sweep_dtype", "auto", "Of the scores in all sweeps but the last.", flag_values=OPTIONS)


def sample_scores(key: jax.Array, tokens: int, prototypes: int, width: int = 256) -> jax.Array:
    """[n K] cosine similarities of unit vectors that share a direction, as features in training do."""
    keys = jax.random.split(key, 3)
    shared = jax.random.normal(keys[0], (1, width))
    features = unit_rows(jax.random.normal(keys[1], (tokens, width)) + shared)
    return features @ unit_rows(jax.random.normal(keys[2], (prototypes, width)) + shared).T


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row of --tokens x --prototypes scores; `overrides` must be empty."""
    if overrides:
        raise InvalidValue(f"objective takes no --config values, got {overrides}")
    shape = (OPTIONS.tokens, OPTIONS.prototypes)
    scores = jax.jit(sample_scores, static_argnums=(1, 2))(jax.random.key(0), *shape)
    labels = jax.random.randint(jax.random.key(1), shape[:1], 0, shape[1])

    sweeps = platform_sweeps(jax.default_backend(), OPTIONS.sweep_dtype)

    def assign(scores):
        settings = {"epsilon": OPTIONS.epsilon, "num_iters": OPTIONS.iterations, "sweeps": sweeps}
        scalings, _ = prototype_scalings(scores, **settings)
        return hard_assignments(scores, scalings, OPTIONS.epsilon, sweeps.block_rows)

    def forward(scores, labels):
        return hard_cross_entropy(scores, labels, OPTIONS.temperature, sweeps.block_rows), assign(
            jax.lax.stop_gradient(scores)
        )

    rows = {}
    programs = {
        "sinkhorn": jax.jit(lambda s, _: assign(s)),
        "forward": jax.jit(forward),
        "backward": jax.jit(jax.grad(forward, has_aux=True)),
    }
    for name, program in programs.items():
        rows[name] = timing.time_calls(lambda program=program: program(scores, labels))
    rate = timing.copy_rate(shape, jnp.float32)
    seconds = rows["forward"]["median_s"]
    bound = (OPTIONS.iterations + 1) * scores.nbytes / rate  # one read per iteration and one for the assignment
    return {
        "mode": "objective",
        "shape": list(shape),
        "batch": OPTIONS.tokens,
        **rows["forward"],
        "sinkhorn_s": rows["sinkhorn"]["median_s"],
        "with_backward_s": rows["backward"]["median_s"],
        "tokens_per_s": OPTIONS.tokens / seconds,
        "sweep_dtype": sweeps.dtype,
        "block_rows": sweeps.block_rows,
        "copy_gb_per_s": rate / 1e9,
        "one_read_bound_s": bound,
        "times_bound": seconds / bound,
        "clips_per_s": None,
        "mfu": None,
        **timing.memory(),
        **timing.machine(),
    }
