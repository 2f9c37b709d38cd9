"""Attentive pooling: one learned query attends to all tokens (the head of attentive probes).

After Bardes et al. 2024 (V-JEPA): cross-attention of a learned query, then an MLP. The SIGMA paper has no such probe,
so its settings are this project's.

Letters: B clips, N tokens, D width, H heads.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from sigma_jax.models.transformer import LayerNorm, Mlp
from sigma_jax.ops.attention import attend


class AttentivePool(nn.Module):
    """x = query + attention(query, norm(tokens)); x + mlp(norm(x))."""

    num_heads: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens [B N D] -> [B D], fp32."""
        width = tokens.shape[-1]

        def dense(name, features=width):
            return nn.Dense(features, kernel_init=self.kernel_init, dtype=self.dtype, name=name)

        query = self.param("query", self.kernel_init, (1, width))
        heads = "B N (H d) -> B N H d"
        normed = LayerNorm(self.dtype, name="norm_tokens")(tokens.astype(self.dtype))
        q = rearrange(jnp.broadcast_to(dense("q")(query), (len(tokens), 1, width)), heads, H=self.num_heads)
        k, v = (rearrange(dense(name)(normed), heads, H=self.num_heads) for name in ("k", "v"))
        attended = rearrange(attend(q, k, v, self.backend), "B N H d -> B N (H d)")
        pooled = query + dense("proj")(attended).astype(jnp.float32)
        mlp = Mlp(4 * width, self.kernel_init, self.dtype, name="mlp")
        return (pooled + mlp(LayerNorm(self.dtype, name="norm_mlp")(pooled)).astype(jnp.float32))[:, 0]
