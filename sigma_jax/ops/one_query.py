"""Attention of one learned query over many tokens, without the keys and values of any token.

The score of token z_n is q . (W_k z_n + b_k) = (W_k^T q) . z_n + a constant that the softmax cancels, and the result is
W_v (sum of a_n z_n) + b_v, since the weights a_n sum to 1. So two products of [N D] with [D H] stand for the two of
[N D] with [D D] that make keys and values: D / H times fewer operations, the same numbers. The scale and shift of a
layer norm before it are folded in the same way. Several queries with weights of their own (vmap) then share all that
depends on the tokens alone.

Letters: B clips, N tokens, D width of the tokens, H heads, d head width.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

Affine = tuple[jax.Array, jax.Array]  # kernel [D (H d)] and bias [(H d)], or scale [D] and shift [D]


def attend_one_query(
    query: jax.Array, tokens: jax.Array, norm: Affine, key_kernel: jax.Array, values: Affine
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v for k and v that are linear in scale * tokens + shift.

    Args:
      query: [H d], fp32.
      tokens: [B N D], standardised.
      norm: scale and shift of the tokens.
      key_kernel: [D (H d)]; a bias of keys changes nothing.
      values: kernel and bias.

    Returns:
      [B (H d)], dtype of the tokens; the softmax is computed in fp32.
    """
    (scale, shift), (kernel, bias), num_heads = norm, values, len(query)
    keys = rearrange(key_kernel, "D (H d) -> D H d", H=num_heads)
    asked = jnp.einsum("DHd,Hd->HD", keys, query * query.shape[-1] ** -0.5) * scale
    logits = jnp.einsum("BND,HD->BHN", tokens, asked.astype(tokens.dtype), preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(tokens.dtype)
    read = jnp.einsum("BHN,BND->BHD", weights, tokens, preferred_element_type=jnp.float32) * scale + shift
    heads = rearrange(kernel, "D (H d) -> H D d", H=num_heads).astype(tokens.dtype)
    attended = jnp.einsum("BHD,HDd->BHd", read.astype(tokens.dtype), heads)
    return rearrange(attended, "B H d -> B (H d)") + bias.astype(tokens.dtype)
