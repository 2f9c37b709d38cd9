"""Mode `probe_grid`: one training step of a grid of attentive probes beside one step of a single probe, in turn.

Tokens are random float16 on the host, as tools.probe_attentive reads them, or (--encoder_depth) the output of a frozen
encoder that both steps compute anew; median_s is of the whole grid.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from sigma_jax.evals.attentive_grid import GridSettings, TokenSet, step_of, step_ratio
from sigma_jax.models.transformer import Block, init_stack, run_stack
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tasks.cost import block_macs
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.options import OPTIONS

CLASSES = 100
flags.DEFINE_list("grid_tokens", ["16", "1568", "384"], "B,N,D: clips, tokens, width.", flag_values=OPTIONS)
flags.DEFINE_integer("probe_depth", 4, "Blocks of a probe (1: no self-attention).", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("probes", 20, "Of the grid.", lower_bound=2, flag_values=OPTIONS)
flags.DEFINE_integer(
    "encoder_depth",
    0,
    "Blocks of a frozen encoder that computes the tokens in every step (0: they are stored).",
    lower_bound=0,
    flag_values=OPTIONS,
)


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """The row: seconds per step of all probes (median_s, cpu_s), of one (one_s, one_cpu_s), and their ratios.

    flops_ratio is that of their operations.
    """
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
        "encoder_depth": OPTIONS.encoder_depth,
        "batch": clips,
        "median_s": wall,
        "p10_s": low,
        "p90_s": high,
        "cpu_s": cpu,
        "one_s": one,
        "one_cpu_s": one_cpu,
        "ratio": wall / one,
        "cpu_ratio": cpu / one_cpu,
        "flops_ratio": step_ratio(_settings(batch, OPTIONS.probes), (num_tokens, width), _encoder_flops(batch)),
        "clips_per_s": clips / wall,
        "repeats": OPTIONS.repeats,
        "mfu": None,
        **timing.machine(),
        **timing.memory(),
    }


def _settings(batch: TokenSet, count: int) -> GridSettings:
    rates = tuple(1e-3 / (1 + i) for i in range(count))
    return GridSettings(rates, (0.01,), depth=OPTIONS.probe_depth, num_heads=_attention_heads(batch))


def _encoder_flops(batch: TokenSet) -> float:
    """Operations per clip of --encoder_depth blocks."""
    return 2.0 * OPTIONS.encoder_depth * block_macs(*batch.tokens.shape[1:])


def _step(batch: TokenSet, count: int) -> Callable[[], jax.Array]:
    """A function that makes one step of `count` probes and returns their losses."""
    settings, encode = _settings(batch, count), _encoder(batch)
    rates = np.float32(settings.learning_rates)
    update, state = step_of(batch.tokens.shape[1:], CLASSES, settings)

    def step() -> jax.Array:
        nonlocal state
        *state, losses = update(*state, rates, np.full(count, 0.01, np.float32), encode(batch.tokens), batch.labels)
        return losses

    return step


def _encoder(batch: TokenSet) -> Callable[[np.ndarray], jax.Array | np.ndarray]:
    """The frozen encoder, whose input here are tokens, too."""
    if not OPTIONS.encoder_depth:
        return lambda tokens: tokens
    block = Block(_attention_heads(batch))
    params = init_stack(jax.random.key(0), block, OPTIONS.encoder_depth, batch.tokens.shape[-1])
    run = jax.jit(lambda params, tokens: run_stack(block, params, tokens.astype(jnp.float32))[0])
    return lambda tokens: run(params, tokens)


def _attention_heads(batch: TokenSet) -> int:
    """16 as published where they divide the width, else the most below that do."""
    return max(heads for heads in range(1, 17) if batch.tokens.shape[-1] % heads == 0)
