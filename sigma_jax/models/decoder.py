"""The decoder: from latents of the visible tubes and mask tokens, with positions, to predictions at the hidden tubes.

Letters: B clips, V visible, M hidden, N = V + M tubes, D encoder width, Dd decoder width, E target width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sigma_jax.models.compute import Compute
from sigma_jax.models.sizes import VideoSize
from sigma_jax.models.transformer import Block, LayerNorm, TorchDense, init_stack, run_stack
from sigma_jax.ops.posembed import position_table
from sigma_jax.ops.tubes import TubeGrid


def mask_token_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """N(0, 0.02^2) truncated at +-0.02, as in the authors' code."""
    return 0.02 * jax.random.truncated_normal(key, -1.0, 1.0, shape)


class Decoder(nn.Module):
    """A small transformer over the visible tubes, then the hidden ones, each ascending (`dec_in` in tests/goldens)."""

    grid: TubeGrid
    size: VideoSize
    target_width: int
    positions: str = "sincos_1d"
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, latents: jax.Array, visible_idx: jax.Array, masked_idx: jax.Array, *, collect: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """latents [B V D], visible_idx [B V], masked_idx [B M] -> predictions [B M E], fp32.

        With `collect` it also returns {'embedded' [B V Dd], 'input' [B N Dd], 'blocks' [L B N Dd]}; without it the last
        block computes hidden tubes only.
        """
        num_masked, compute = masked_idx.shape[1], self.compute
        width, depth, num_heads = self.size.decoder_width, self.size.decoder_depth, self.size.decoder_num_heads
        table = jnp.asarray(position_table(self.positions, self.grid.shape, width), compute.dtype)
        mask_token = self.param("mask_token", mask_token_init, (1, 1, width)).astype(compute.dtype)
        embedded = TorchDense(width, use_bias=False, dtype=compute.dtype, name="embed")(latents)
        x = jnp.concatenate([embedded + table[visible_idx], mask_token + table[masked_idx]], axis=1)

        block = Block(num_heads, dtype=compute.dtype, backend=compute.backend, parent=None)
        params = self.param("blocks", init_stack, block, depth, width)
        y, blocks = run_stack(
            block,
            params,
            x,
            num_outputs=None if collect else num_masked,
            remat=compute.remat,
            unroll=compute.unroll,
            collect=collect,
        )
        y = LayerNorm(compute.dtype, name="norm")(y[:, -num_masked:])
        xavier = nn.initializers.xavier_uniform()
        head = nn.Dense(self.target_width, kernel_init=xavier, dtype=compute.dtype, name="head")
        predictions = head(y).astype(jnp.float32)
        return (predictions, {"embedded": embedded, "input": x, "blocks": blocks}) if collect else predictions
