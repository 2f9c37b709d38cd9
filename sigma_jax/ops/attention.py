"""Scaled dot-product attention with the implementation chosen per platform.

Letters: B clips, Q queries, N keys, H heads, d head width.
"""

import jax
import jax.numpy as jnp

BACKENDS = ("auto", "xla", "cudnn")


def check_backend(backend: str, platform: str | None = None) -> str:
    """Resolves 'auto' for a platform, 'cpu', 'gpu' or 'tpu' (default: the one at hand).

    Raises:
      ValueError: an unknown backend, or one that the platform lacks; names the valid ones.
    """
    platform = platform or jax.default_backend()
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r} is unknown: choose one of {BACKENDS}")
    if backend == "cudnn" and platform != "gpu":
        raise ValueError(f"attention backend 'cudnn' needs a GPU, but this is {platform!r}: choose 'auto' or 'xla'")
    if backend == "auto":
        return "cudnn" if platform == "gpu" else "xla"
    return backend


def attend(q: jax.Array, k: jax.Array, v: jax.Array, backend: str = "auto") -> jax.Array:
    """softmax(q k^T / sqrt(d)) v.

    Args:
      q: [B Q H d]; k, v: [B N H d]; bf16 or fp32 (cuDNN takes 16-bit only: fp32 falls back to XLA).

    Returns:
      [B Q H d], dtype of q. The softmax is computed in fp32.
    """
    backend = check_backend(backend)
    if backend == "cudnn" and q.dtype != jnp.float32:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("BQHd,BNHd->BHQN", q * scale, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    return jnp.einsum("BHQN,BNHd->BQHd", weights, v)
