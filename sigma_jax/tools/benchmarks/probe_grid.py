"""Mode `probe_grid`: one training step of a grid of attentive probes beside one step of a single probe, in turn.

Tokens are random float16 on the host, as tools.probe_attentive reads them; median_s is of the whole grid.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from sigma_jax.evals.attentive_grid import GridSettings, TokenSet, step_of
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS

CLASSES = 100
flags.DEFINE_list("grid_tokens", ["16", "1568", "384"], "B,N,D: clips, tokens, width.", flag_values=OPTIONS)
flags.DEFINE_integer("probe_depth", 4, "Blocks of a probe (1: no self-attention).", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("probes", 20, "Of the grid.", lower_bound=2, flag_values=OPTIONS)


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row: seconds per step of all probes (median_s, cpu_s), of one (one_s, one_cpu_s), and their ratios."""
    if overrides:
        raise InvalidValue(f"probe_grid takes no --config values, got {overrides}")
    try:
        clips, num_tokens, width = map(int, OPTIONS.grid_tokens)
    except ValueError as error:
        raise InvalidValue(f"--grid_tokens={','.join(OPTIONS.grid_tokens)}: expected B,N,D") from error
    rng = np.random.default_rng(0)
    batch = TokenSet(
        rng.standard_normal((clips, num_tokens, width), np.float32).astype(np.float16),
        rng.integers(CLASSES, size=clips),
    )
    steps = {count: _step(batch, count) for count in (1, OPTIONS.probes)}
    seconds = {count: [] for count in steps}
    for repetition in range(OPTIONS.warmup + OPTIONS.repeats):
        for count, step in steps.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(step())
            spent = time.perf_counter() - start[0], time.process_time() - start[1]
            if repetition >= OPTIONS.warmup:
                seconds[count].append(spent)
    (one, one_cpu), (wall, cpu) = (np.median(seconds[count], axis=0).tolist() for count in steps)
    low, high = np.quantile([pair[0] for pair in seconds[OPTIONS.probes]], [0.1, 0.9]).tolist()
    return {
        "mode": "probe_grid",
        "shape": [clips, num_tokens, width],
        "probes": OPTIONS.probes,
        "depth": OPTIONS.probe_depth,
        "batch": clips,
        "median_s": wall,
        "p10_s": low,
        "p90_s": high,
        "cpu_s": cpu,
        "one_s": one,
        "one_cpu_s": one_cpu,
        "ratio": wall / one,
        "cpu_ratio": cpu / one_cpu,
        "clips_per_s": clips / wall,
        "repeats": OPTIONS.repeats,
        "mfu": None,
        **timing.machine(),
        **timing.memory(),
    }


def _step(batch: TokenSet, count: int) -> Callable[[], jax.Array]:
    """A function that makes one step of `count` probes and returns their losses."""
    rates = tuple(1e-3 / (1 + i) for i in range(count))
    settings = GridSettings(rates, (0.01,), depth=OPTIONS.probe_depth, num_heads=_attention_heads(batch))
    update, state = step_of(batch.tokens.shape[1:], CLASSES, settings)

    def step() -> jax.Array:
        nonlocal state
        *state, losses = update(*state, np.float32(rates), np.full(count, 0.01, np.float32), *batch)
        return losses

    return step


def _attention_heads(batch: TokenSet) -> int:
    """16 as published where they divide the width, else the most below that do."""
    return max(heads for heads in range(1, 17) if batch.tokens.shape[-1] % heads == 0)
