"""The video encoder: tube embedding, fixed positions, transformer blocks, final norm.

Letters: B clips, N tubes, V visible ones, P numbers in a tube, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sigma_jax.models.compute import Compute
from sigma_jax.models.sizes import VideoSize
from sigma_jax.models.transformer import Block, LayerNorm, TorchDense, init_stack, run_stack
from sigma_jax.ops.masking import gather
from sigma_jax.ops.posembed import position_table, resize_positions
from sigma_jax.ops.tubes import TubeGrid, standardize_tubes, video_to_tubes


class Encoder(nn.Module):
    """ViT over the visible tubes, or over all of them.

    The kernel of the tube embedding equals its stride, so that only the visible tubes have to be embedded.

    Attributes:
      grid: how a clip is cut into tubes.
      size: width, depth and number of heads; those of a decoder are not used.
      positions: kind of positional embedding, one of ops.posembed.POSITION_KINDS.
      compute: type and implementation of the arithmetic.
      final_norm: whether latents are normalised.
      drop_path: largest rate of stochastic depth, which grows linearly over the blocks.
      kernel_init: of the blocks' weights.
      position_grid: (h, w) for which positions are computed before they are resized to `grid`; None: that of `grid`.
    """

    grid: TubeGrid
    size: VideoSize
    positions: str = "sincos_1d"
    compute: Compute = Compute()
    final_norm: bool = True
    drop_path: float = 0.0
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    position_grid: tuple[int, int] | None = None

    @nn.compact
    def __call__(
        self, video: jax.Array, visible_idx: jax.Array | None = None, *, train: bool = False, collect: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Encodes clips.

        Args:
          video: [B F H W 3], uint8 or float in [0, 1].
          visible_idx: [B V] ascending, or None for all tubes.
          train: whether stochastic depth is on; it draws from the rng stream 'drop_path'.
          collect: also return {'embedded' [B V D] (before positions), 'blocks' [L B V D]}.

        Returns:
          latents [B V D], and the collected intermediates if wanted.
        """
        size, compute = self.size, self.compute
        tubes = video_to_tubes(video, self.grid.tube_size)
        t, h, w = self.grid.shape
        h0, w0 = self.position_grid or (h, w)
        table = jnp.asarray(position_table(self.positions, (t, h0, w0), size.width))
        positions = resize_positions(table, (t, h0, w0), (t, h, w)).astype(compute.dtype)
        if visible_idx is not None:
            tubes, positions = gather(tubes, visible_idx), positions[visible_idx]
        embedded = TorchDense(size.width, dtype=compute.dtype, name="embed")(standardize_tubes(tubes))
        x = embedded + positions

        block = Block(
            size.num_heads, kernel_init=self.kernel_init, dtype=compute.dtype, backend=compute.backend, parent=None
        )
        params = self.param("blocks", init_stack, block, size.depth, size.width)
        drop = (self.drop_path, self.make_rng("drop_path")) if train and self.drop_path else None
        x, blocks = run_stack(block, params, x, drop=drop, remat=compute.remat, unroll=compute.unroll, collect=collect)
        if self.final_norm:
            x = LayerNorm(compute.dtype, name="norm")(x)
        return (x, {"embedded": embedded, "blocks": blocks}) if collect else x
