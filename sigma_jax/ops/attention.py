"""Scaled dot-product attention with the implementation chosen per platform.

    cudnn  fused kernel on NVIDIA GPUs (16-bit only)
    pallas our kernels on TPUs (tpu_attention.py, 16-bit only); for sizes that these do not support, lean
    xla    two products and a softmax; XLA fuses what it can, and keeps the weights for the backward pass
    lean   for CPUs: one head at a time. The backward pass recomputes the attention weights from their row sums, so that
           no [Q N] matrix is stored. Clips are not looped over, because a loop over a sharded axis would gather it.
           With fewer than LEAN_KEYS keys it is the same as xla.

Letters: B clips, Q queries, N keys, H heads, d head width.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from sigma_jax.runtime.errors import InvalidValue

BACKENDS = ("auto", "xla", "cudnn", "pallas", "lean")
NEEDS = {"cudnn": ("gpu", "a GPU"), "pallas": ("tpu", "a TPU")}
LEAN_KEYS = 512  # with fewer keys a head's weights are small and one batched product is faster
OLDEST_GPU = 8.0  # the smallest compute capability for which cuDNN has fused attention
OLDEST_CUDNN = 90000  # version 9.0.0, the oldest that JAX for CUDA 13 accepts
SAVED_NAME = "attention"  # under this name rematerialisation finds the results to keep (models/transformer.py)


def check_backend(backend: str, platform: str | None = None) -> str:
    """Resolves 'auto' for a platform ('cpu', 'gpu', 'tpu'; default the one at hand).

    Raises:
      ValueError: an unknown backend, or one that the platform lacks; names the valid ones.
    """
    platform = platform or jax.default_backend()
    if backend not in BACKENDS:
        raise InvalidValue(f"attention backend {backend!r} is unknown: choose one of {BACKENDS}")
    if backend in NEEDS and platform != NEEDS[backend][0]:
        raise InvalidValue(
            f"attention backend {backend!r} needs {NEEDS[backend][1]}, but this is {platform!r}: "
            "choose 'auto', 'xla' or 'lean'"
        )
    if backend == "auto":
        return {"gpu": "cudnn", "cpu": "lean", "tpu": "pallas"}.get(platform, "xla")
    return backend


def cudnn_problem() -> str:
    """Why cuDNN's fused attention cannot run on this GPU, as a clause; "" where it can, and where there is no GPU."""
    if jax.default_backend() != "gpu":
        return ""
    capability = float(getattr(jax.local_devices()[0], "compute_capability", OLDEST_GPU))
    if capability < OLDEST_GPU:
        return f"it needs a GPU of compute capability {OLDEST_GPU}, and this one has {capability}"
    try:
        from jax._src.cudnn import fused_attention_stablehlo

        version = fused_attention_stablehlo.check_cudnn_version()
    except (ImportError, AttributeError, RuntimeError) as error:
        return f"it does not load ({str(error).splitlines()[0]})"
    return "" if version >= OLDEST_CUDNN else f"it is version {version}, and {OLDEST_CUDNN} is needed"


def attend(q: jax.Array, k: jax.Array, v: jax.Array, backend: str = "auto") -> jax.Array:
    """Scaled dot-product attention, softmax(q k^T / sqrt(d)) v.

    Args:
      q: [B Q H d], bf16 or fp32 (cuDNN supports 16-bit only: fp32 takes the xla implementation).
      k, v: [B N H d].
      backend: one of BACKENDS.

    Returns:
      [B Q H d], dtype of q. The softmax is computed in fp32.

    Raises:
      InvalidValue: an unknown backend.
    """
    # A kernel that is named may be traced for its platform on any machine (plans); only "auto" asks for this one's.
    backend = check_backend(backend, NEEDS.get(backend, (None,))[0])
    if backend == "cudnn" and q.dtype != jnp.float32:
        is_odd = q.shape[1] % 2 or k.shape[1] % 2
        return checkpoint_name((_cudnn_odd if is_odd else _cudnn)(q, k, v), SAVED_NAME)
    q = q * q.shape[-1] ** -0.5
    if backend == "pallas":
        from sigma_jax.ops import tpu_attention  # imports Pallas for TPUs, which nothing else needs

        if tpu_attention.takes(q, k.shape[1]):
            return checkpoint_name(tpu_attention.attend_on_tpu(q, k, v), SAVED_NAME)
    if backend in ("lean", "pallas") and k.shape[1] >= LEAN_KEYS:
        heads = (rearrange(x, "B N H d -> H B N d") for x in (q, k, v))
        return rearrange(_lean(*heads), "H B Q d -> B Q H d")
    logits = jnp.einsum("BQHd,BNHd->BHQN", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    return jnp.einsum("BHQN,BNHd->BQHd", weights, v)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


@jax.custom_vjp
def _cudnn_odd(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention over an odd number of queries or keys.

    cuDNN has no backward pass for these: under differentiation they are padded to even numbers and the padding is
    masked out.
    """
    return _cudnn(q, k, v)


def _cudnn_padded(q, k, v):
    clips, queries, keys = q.shape[0], q.shape[1], k.shape[1]

    def even(x):
        return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))

    lengths = {
        "query_seq_lengths": jnp.full(clips, queries, jnp.int32),
        "key_value_seq_lengths": jnp.full(clips, keys, jnp.int32),
    }
    out = jax.nn.dot_product_attention(even(q), even(k), even(v), implementation="cudnn", **lengths)
    return out[:, :queries]


_cudnn_odd.defvjp(lambda q, k, v: jax.vjp(_cudnn_padded, q, k, v), lambda pullback, gradient: pullback(gradient))


@jax.custom_vjp
def _lean(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Heads in the leading axis: q [H B Q d] (scaled), k, v [H B N d] -> [H B Q d]."""
    return _lean_forward(q, k, v)[0]


def _dot(a: jax.Array, b: jax.Array, pattern: str) -> jax.Array:
    return jnp.einsum(pattern, a, b, preferred_element_type=jnp.float32)


def _lean_forward(q, k, v):
    def head(qkv):
        q, k, v = qkv
        logits = _dot(q, k, "BQd,BNd->BQN")
        peak = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - peak)
        row_sums = jnp.sum(weights, axis=-1, keepdims=True)
        out = _dot(weights.astype(v.dtype), v, "BQN,BNd->BQd") / row_sums
        return out.astype(q.dtype), peak + jnp.log(row_sums)

    out, log_sums = lax.map(head, (q, k, v))
    out, log_sums = checkpoint_name(out, SAVED_NAME), checkpoint_name(log_sums, SAVED_NAME)
    return out, (q, k, v, out, log_sums)


def _lean_backward(saved, gradient):
    def head(arrays):
        q, k, v, out, log_sums, do = arrays
        weights = jnp.exp(_dot(q, k, "BQd,BNd->BQN") - log_sums)
        dv = _dot(weights.astype(do.dtype), do, "BQN,BQd->BNd")
        row_dots = jnp.sum(do.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
        dlogits = (weights * (_dot(do, v, "BQd,BNd->BQN") - row_dots)).astype(q.dtype)
        dq, dk = _dot(dlogits, k, "BQN,BNd->BQd"), _dot(dlogits, q, "BQN,BQd->BNd")
        return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)

    return lax.map(head, (*saved, gradient))


_lean.defvjp(_lean_forward, _lean_backward)
