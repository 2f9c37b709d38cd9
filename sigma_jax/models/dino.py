"""The frozen teacher: DINO or DINOv2 image ViT (SIGMA-DINO).

Letters: n images, p*p patch size, T patch tokens, E width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from sigma_jax.models.fp8 import Fp8Block
from sigma_jax.models.sizes import TeacherSize
from sigma_jax.models.transformer import Block, LayerNorm, TorchDense, init_stack, run_stack
from sigma_jax.ops.posembed import resize_positions
from sigma_jax.ops.tubes import standardize_tubes
from sigma_jax.runtime.errors import InvalidValue


class DinoVit(nn.Module):
    """Patch embedding, learned positions, cls (and registers), pre-norm blocks, final norm.

    The positional embedding of DINO, and that of DINOv2 as published, has a row for cls. That of timm's variant with
    registers has none: there positions are added before cls and registers are put in front
    (tests/goldens/dinov2_vit.npz). `size.cls_position` tells which.
    """

    size: TeacherSize
    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"
    unroll: int = 1
    fp8: bool = False  # products of 8-bit numbers, see models/fp8.py

    @nn.compact
    def __call__(self, images: jax.Array, *, collect: bool = False) -> jax.Array | dict[str, jax.Array]:
        """images [n H W 3], uint8 or float in [0, 1] -> all tokens after the final norm [n 1+registers+T E], fp32.

        H and W must be multiples of the patch size; the positional embedding is resized to their grid.
        """
        size, patch = self.size, self.size.patch_size
        if images.shape[1] % patch or images.shape[2] % patch:
            raise InvalidValue(
                f"images of {images.shape[1]}x{images.shape[2]} pixels are not a multiple of the teacher's patch size "
                f"{patch}: choose a size that is"
            )
        grid = (images.shape[1] // patch, images.shape[2] // patch)
        patches = rearrange(images, "n (h ph) (w pw) c -> n (h w) (ph pw c)", ph=patch, pw=patch)
        # Without the barrier XLA would standardise first, and rearrange fp32 instead of bytes.
        patches = jax.lax.optimization_barrier(patches)
        embedded = TorchDense(size.width, dtype=self.dtype, name="embed")(standardize_tubes(patches))

        def tokens(name, count):
            return self.param(name, nn.initializers.truncated_normal(0.02), (count, size.width)).astype(self.dtype)

        rows = size.position_grid[0] * size.position_grid[1]
        table = tokens("positions", rows + int(size.cls_position))
        cls = tokens("cls", 1)
        if size.cls_position:
            cls, table = cls + table[:1], table[1:]
        antialias = size.num_registers > 0  # as in the published code, see resize_positions
        x = embedded + resize_positions(table, size.position_grid, grid, antialias=antialias).astype(self.dtype)
        front = [cls] + ([tokens("registers", size.num_registers)] if size.num_registers else [])
        front = jnp.concatenate(front)[None]
        x = jnp.concatenate([jnp.broadcast_to(front, (x.shape[0], *front.shape[1:])), x], axis=1)

        block = Block(
            size.num_heads,
            qkv_bias="qkv",
            layer_scale=size.layer_scale,
            kernel_init=nn.initializers.truncated_normal(0.02),
            dtype=self.dtype,
            backend=self.backend,
            parent=None,
        )
        params = self.param("blocks", init_stack, block, size.depth, size.width)
        run = Fp8Block(block) if self.fp8 else block
        x, blocks = run_stack(run, params, x, unroll=self.unroll, collect=collect)
        out = LayerNorm(jnp.float32, name="norm")(x)
        return {"embedded": embedded, "blocks": blocks, "tokens": out} if collect else out


def tube_features(tokens: jax.Array, size: TeacherSize, grid: tuple[int, int]) -> jax.Array:
    """Teacher tokens -> one feature per tube position of a frame.

    Drops cls and registers; where the teacher's grid is not the tube grid (DINOv2: 16x16 against 14x14) the map is
    resized bilinearly, half-pixel centres, without antialiasing, as the authors do.

    Args:
      tokens: [n 1+registers+T E] of square images.
      grid: (h, w) of the tubes.

    Returns:
      [n h*w E].
    """
    patches = tokens[:, 1 + size.num_registers :]
    side = round(patches.shape[1] ** 0.5)
    if (side, side) == tuple(grid):
        return patches
    maps = patches.reshape(patches.shape[0], side, side, -1)
    precision = jax.lax.Precision.HIGHEST  # targets are computed in fp32 on every platform
    maps = jax.image.resize(
        maps, (maps.shape[0], *grid, maps.shape[-1]), "linear", antialias=False, precision=precision
    )
    return rearrange(maps, "n h w E -> n (h w) E")
