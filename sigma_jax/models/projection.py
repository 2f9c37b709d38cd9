"""The projection network: embeds the hidden tubes themselves (SIGMA-MLP).

With a frozen teacher (SIGMA-DINO) there is no projection network: the teacher's features are the projections.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sigma_jax.models.transformer import TorchDense
from sigma_jax.ops.activations import gelu

PUBLISHED_WIDTHS = (1024, 1024, 512, 256)


class ProjectionNetwork(nn.Module):
    """Linear layers with exact GELU between them, initialised as torch's Linear (uniform in +-1 / sqrt(fan in))."""

    widths: tuple[int, ...] = PUBLISHED_WIDTHS
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, targets: jax.Array) -> jax.Array:
        """targets [B M P] normalised tubes -> projections [B M E], fp32."""
        x = targets
        for i, width in enumerate(self.widths):
            if i:
                x = gelu(x)
            x = TorchDense(width, dtype=self.dtype, name=f"fc{i + 1}")(x)
        return x.astype(jnp.float32)
