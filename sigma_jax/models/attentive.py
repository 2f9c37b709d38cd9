"""Attentive pooling: one learned query attends to all tokens (the head of attentive probes).

After Bardes et al. 2024 (V-JEPA): cross-attention of a learned query, then an MLP. The SIGMA paper has no such probe,
so its settings are this project's.

Letters: B clips, N tokens, D width, H heads.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from sigma_jax.models.transformer import LAYER_NORM_EPSILON, LayerNorm, Mlp
from sigma_jax.ops.normalization import layer_norm
from sigma_jax.ops.one_query import Affine, attend_one_query


class LinearWeights(nn.Module):
    """Kernel [D features] and bias of a linear layer that is folded into other products."""

    features: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, width: int) -> Affine:
        kernel = self.param("kernel", self.kernel_init, (width, self.features))
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


class NormWeights(nn.Module):
    """Scale and shift of a layer norm that are folded into what follows."""

    @nn.compact
    def __call__(self, width: int) -> Affine:
        scale = self.param("scale", nn.initializers.ones, (width,))
        return scale, self.param("bias", nn.initializers.zeros, (width,))


def standardized(tokens: jax.Array, dtype: jnp.dtype, epsilon: float = LAYER_NORM_EPSILON) -> jax.Array:
    """A layer norm without its weights: [B N D] -> mean 0 and variance 1 of every token, in `dtype`."""
    width = tokens.shape[-1]
    return layer_norm(tokens, jnp.ones(width), jnp.zeros(width), epsilon).astype(dtype)


class AttentivePool(nn.Module):
    """query + attention(query, norm(tokens)), then + mlp(norm(.))."""

    num_heads: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens [B N D] -> [B D], fp32."""
        width = tokens.shape[-1]
        query = self.param("query", self.kernel_init, (1, width))
        norm = NormWeights(name="norm_tokens")(width)
        q = nn.Dense(width, kernel_init=self.kernel_init, name="q")(query)
        q = rearrange(q, "1 (H d) -> H d", H=self.num_heads)
        key_kernel, _ = LinearWeights(width, self.kernel_init, name="k")(width)
        values = LinearWeights(width, self.kernel_init, name="v")(width)
        attended = attend_one_query(q, standardized(tokens, self.dtype), norm, key_kernel, values)
        proj = nn.Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name="proj")
        pooled = query + proj(attended).astype(jnp.float32)
        mlp = Mlp(4 * width, self.kernel_init, self.dtype, name="mlp")
        return pooled + mlp(LayerNorm(self.dtype, name="norm_mlp")(pooled)).astype(jnp.float32)
