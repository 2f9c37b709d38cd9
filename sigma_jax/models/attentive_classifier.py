"""The attentive classifier of V-JEPA 2 (Assran et al. 2025): self-attention blocks, one learned query, a linear layer.

Unlike models/attentive.py (the head that configs/attentive_probe.py trains), tokens are mixed by blocks before the
query reads them, and its cross-attention has no output projection.

Letters: B clips, N tokens, D width, H heads, C classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from sigma_jax.models.attentive import LinearWeights, NormWeights, standardized
from sigma_jax.models.transformer import Block, LayerNorm, Mlp, init_stack, run_stack
from sigma_jax.ops.one_query import attend_one_query

EPSILON = 1e-5  # of its norms, torch's default
STD = 0.02


class AttentiveClassifier(nn.Module):
    """tokens [B N D] -> logits [B C].

    Attributes:
      num_classes: C.
      num_heads: of every attention; it must divide D.
      depth: number of blocks, of which the last one is the cross-attention and the others are self-attention.
      dtype: of the computation; parameters are fp32.
      backend: implementation of attention (ops/attention.py).
    """

    num_classes: int
    num_heads: int = 16
    depth: int = 4
    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        width = tokens.shape[-1]
        kernel_init = nn.initializers.normal(STD)  # the public code truncates at 100 of them
        x = tokens.astype(self.dtype)
        if self.depth > 1:
            block = Block(
                self.num_heads,
                qkv_bias="qkv",
                kernel_init=kernel_init,
                dtype=self.dtype,
                backend=self.backend,
                epsilon=EPSILON,
                parent=None,
            )
            params = self.param("blocks", _rescaled_stack, block, self.depth - 1, width)
            x, _ = run_stack(block, params, x)

        query = self.param("query", kernel_init, (1, 1, width))
        norm = NormWeights(name="norm1")(width)
        q = nn.Dense(width, kernel_init=kernel_init, name="q")(query[0])
        kernel, bias = LinearWeights(2 * width, kernel_init, name="kv")(width)
        attended = attend_one_query(
            rearrange(q, "1 (H d) -> H d", H=self.num_heads),
            standardized(x, self.dtype, EPSILON),
            norm,
            kernel[:, :width],
            (kernel[:, width:], bias[width:]),
        )
        pooled = query[0] + attended.astype(jnp.float32)
        smaller = nn.initializers.normal(STD / (2 * max(self.depth - 1, 1)) ** 0.5)  # as the last block's
        mlp = Mlp(4 * width, kernel_init, self.dtype, out_init=smaller, name="mlp")
        pooled = pooled + mlp(LayerNorm(self.dtype, EPSILON, name="norm2")(pooled)).astype(jnp.float32)
        precision = jax.lax.Precision.HIGHEST  # products that feed the loss are fp32 on every platform
        return nn.Dense(self.num_classes, kernel_init=kernel_init, precision=precision, name="linear")(pooled)


def _rescaled_stack(key: jax.Array, block: Block, depth: int, width: int):
    """Initial parameters of the blocks; the output layers of block i are divided by sqrt(2 (i + 1))."""
    params = init_stack(key, block, depth, width)
    scale = (2 * (1 + jnp.arange(depth, dtype=jnp.float32))) ** -0.5
    for path in (("attn", "proj"), ("mlp", "fc2")):
        layer = params[path[0]][path[1]]
        layer["kernel"] = layer["kernel"] * scale[:, None, None]
    return params
