"""The video encoder: tube embedding, fixed positions, transformer blocks, final norm.

Letters: B clips, N tubes, V visible ones, P numbers in a tube, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sigma_jax.models.transformer import Block, LayerNorm, TorchDense, init_stack, run_stack
from sigma_jax.ops.masking import gather
from sigma_jax.ops.posembed import position_table, resize_positions
from sigma_jax.ops.tubes import TubeGrid, standardize_tubes, video_to_tubes


class Encoder(nn.Module):
    """ViT over the visible tubes, or over all of them.

    A tube embedding has kernel = stride, so it commutes with choosing tubes: only visible tubes are embedded.

    Attributes:
      position_grid: (h, w) whose positions are resized to those of `grid`; None: positions are computed for `grid`.
    """

    grid: TubeGrid
    width: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    positions: str = "sincos_1d"
    final_norm: bool = True
    drop_path: float = 0.0
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"
    remat: str = "none"
    unroll: int = 1
    position_grid: tuple[int, int] | None = None

    @nn.compact
    def __call__(
        self, video: jax.Array, visible_idx: jax.Array | None = None, *, train: bool = False, collect: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Encodes clips.

        Args:
          video: [B F H W 3], uint8 or float in [0, 1].
          visible_idx: [B V] ascending, or None for all tubes.
          train: stochastic depth on; draws from the rng stream 'drop_path'.
          collect: also return {'embedded' [B V D] (before positions), 'blocks' [L B V D]}.

        Returns:
          latents [B V D].
        """
        tubes = video_to_tubes(video, self.grid.tube_size)
        t, h, w = self.grid.shape
        h0, w0 = self.position_grid or (h, w)
        table = jnp.asarray(position_table(self.positions, (t, h0, w0), self.width))
        positions = resize_positions(table, (t, h0, w0), (t, h, w)).astype(self.dtype)
        if visible_idx is not None:
            tubes, positions = gather(tubes, visible_idx), positions[visible_idx]
        embedded = TorchDense(self.width, dtype=self.dtype, name="embed")(standardize_tubes(tubes))
        x = embedded + positions

        block = Block(
            self.num_heads,
            self.mlp_ratio,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            backend=self.backend,
            parent=None,
        )
        params = self.param("blocks", init_stack, block, self.depth, self.width)
        drop = (self.drop_path, self.make_rng("drop_path")) if train and self.drop_path else None
        x, blocks = run_stack(block, params, x, drop=drop, remat=self.remat, unroll=self.unroll, collect=collect)
        if self.final_norm:
            x = LayerNorm(self.dtype, name="norm")(x)
        return (x, {"embedded": embedded, "blocks": blocks}) if collect else x
