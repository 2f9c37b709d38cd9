"""Encoder and pooled linear head: finetuning and probes.

Letters: B clips, N tubes, D width, C classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sigma_jax.models.attentive import AttentivePool
from sigma_jax.models.compute import Compute
from sigma_jax.models.encoder import Encoder
from sigma_jax.models.sizes import VideoSize
from sigma_jax.models.transformer import LayerNorm
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.errors import InvalidValue


def finetune_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """N(0, 0.02^2) truncated at +-2, which is a hundred standard deviations; as in the authors' code."""
    return 0.02 * jax.random.truncated_normal(key, -100.0, 100.0, shape, dtype)


class VideoClassifier(nn.Module):
    """Encoder of all tubes -> pooling -> a new LayerNorm -> dropout -> linear head, as in the authors' finetuning.

    The pre-trained encoder's final norm is not used.

    Attributes:
      grid, size, positions, compute: of the encoder.
      num_classes: C.
      head_init_scale: the head's initial weights are multiplied by it.
      drop_path: largest rate of stochastic depth, which grows linearly over the blocks.
      dropout: rate before the head.
      pooling: 'mean' over tokens, 'attentive', or 'first', the first tube's latent (VideoMAE without mean pooling).
    """

    grid: TubeGrid
    size: VideoSize
    num_classes: int
    positions: str = "sincos_1d"
    compute: Compute = Compute()
    pooling: str = "mean"
    drop_path: float = 0.0
    dropout: float = 0.0
    head_init_scale: float = 0.001

    @nn.compact
    def __call__(
        self, video: jax.Array, *, train: bool = False, collect: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """video [B F H W 3] (uint8, or float in [0, 1]) -> logits [B C], fp32.

        With `train` it draws from the rng streams 'drop_path' and 'dropout'. With `collect` it also returns the
        intermediates that tests/goldens/README.md names.
        """
        encoder = Encoder(
            self.grid,
            self.size,
            self.positions,
            self.compute,
            final_norm=False,
            drop_path=self.drop_path,
            kernel_init=finetune_init,
            name="encoder",
        )
        latents = encoder(video, train=train, collect=collect)
        latents, inner = latents if collect else (latents, None)
        pooled = LayerNorm(name="norm")(self._pool(latents))
        features = nn.Dropout(self.dropout, deterministic=not train)(pooled)

        def head_init(key, shape, dtype=jnp.float32):
            return self.head_init_scale * finetune_init(key, shape, dtype)

        precision = jax.lax.Precision.HIGHEST  # products that feed the loss are fp32 on every platform
        logits = nn.Dense(self.num_classes, kernel_init=head_init, precision=precision, name="head")(features)
        if not collect:
            return logits
        blocks = inner["blocks"]
        return logits, {
            "patch_embed": inner["embedded"],
            "block0": blocks[0],
            "block_last": blocks[-1],
            "pooled": pooled,
        }

    def _pool(self, latents: jax.Array) -> jax.Array:
        """[B N D] -> [B D], fp32."""
        if self.pooling == "mean":
            return jnp.mean(latents.astype(jnp.float32), axis=1)
        if self.pooling == "first":
            return latents[:, 0].astype(jnp.float32)
        if self.pooling != "attentive":
            raise InvalidValue(f"pooling {self.pooling!r} is unknown: choose mean, first or attentive")
        compute = self.compute
        return AttentivePool(self.size.num_heads, finetune_init, compute.dtype, name="pool")(latents)
