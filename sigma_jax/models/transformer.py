"""Pre-norm transformer blocks, and a stack of them whose parameters are stacked.

Letters: B clips, N tokens, D width, H heads, L blocks. Parameters of the blocks are stacked along a leading L axis,
whether the stack is scanned, unrolled or rematerialised, so that checkpoints do not depend on it.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from sigma_jax.ops.activations import gelu
from sigma_jax.ops.attention import SAVED_NAME, attend
from sigma_jax.ops.normalization import layer_norm
from sigma_jax.ops.placement import gathered, split_clips
from sigma_jax.ops.stored import stored_kernels
from sigma_jax.runtime.errors import InvalidValue

LAYER_NORM_EPSILON = 1e-6
_policies = jax.checkpoint_policies
REMAT_POLICIES = {
    # the backward pass recomputes nothing
    "none": None,
    # it recomputes all but products with weights and the result of attention: norms, GELU, the softmax
    "cheap": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(SAVED_NAME)
    ),
    # it recomputes all but matrix products
    "dots": _policies.dots_saveable,
    # it recomputes everything
    "full": _policies.nothing_saveable,
}


class LayerNorm(nn.Module):
    """Layer normalisation, computed in fp32 and returned in `dtype`; epsilon 1e-6 as in VideoMAE and SIGMA."""

    dtype: jnp.dtype = jnp.float32
    epsilon: float = LAYER_NORM_EPSILON

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, self.epsilon).astype(self.dtype)


def torch_linear_init(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """Uniform in +-1/sqrt(fan_in), the initial weights and biases of torch's Linear and Conv3d."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class TorchDense(nn.Module):
    """Linear layer with torch's default initialisation."""

    features: int
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = x.shape[-1]
        kernel = self.param("kernel", torch_linear_init, (fan_in, self.features), fan_in)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            y = y + self.param("bias", torch_linear_init, (self.features,), fan_in).astype(self.dtype)
        return y


class ShiftedDense(nn.Module):
    """Linear layer of x + shift for a vector `shift`, which is folded into the bias instead of being added to x."""

    features: int
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, shift: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        bias = bias + jnp.matmul(shift, kernel, precision=jax.lax.Precision.HIGHEST)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class Attention(nn.Module):
    """Self-attention with one fused qkv matrix.

    With qkv_bias='qv' q and v have biases and k has none (SIGMA, VideoMAE); with 'qkv' there is one bias (DINO). Only
    the bias of q enters the attention itself. That of k would add the same number to all logits of a query, which does
    not change a softmax. That of v is added to the output, since the attention weights sum to 1.
    """

    num_heads: int
    qkv_bias: str = "qv"
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, num_queries: int | None = None) -> jax.Array:
        """x [B N D] -> [B Q D], where the queries are all tokens, or the last `num_queries`."""
        width = x.shape[-1]
        kernel = self.param("qkv", self.kernel_init, (width, 3 * width)).astype(self.dtype)
        if self.qkv_bias == "qv":
            q_bias = self.param("q_bias", nn.initializers.zeros, (width,))
            v_bias = self.param("v_bias", nn.initializers.zeros, (width,))
        else:
            q_bias, _, v_bias = jnp.split(self.param("qkv_bias", nn.initializers.zeros, (3 * width,)), 3)
        q_bias = q_bias.astype(self.dtype)
        heads = functools.partial(rearrange, pattern="B N (H d) -> B N H d", H=self.num_heads)
        if self.backend == "cudnn":  # it needs contiguous q, k and v: slices of one product would be copied
            queries = x if num_queries is None else x[:, -num_queries:]
            q_kernel, k_kernel, v_kernel = jnp.split(kernel, 3, axis=1)
            q, k, v = heads(queries @ q_kernel + q_bias), heads(x @ k_kernel), heads(x @ v_kernel)
        elif num_queries is None:
            bias = jnp.concatenate([q_bias, jnp.zeros(2 * width, self.dtype)])
            q, k, v = (heads(part) for part in jnp.split(x @ kernel + bias, 3, axis=-1))
        else:
            q = heads(x[:, -num_queries:] @ kernel[:, :width] + q_bias)
            k, v = (heads(part) for part in jnp.split(x @ kernel[:, width:], 2, axis=-1))
        out = rearrange(attend(q, k, v, self.backend), "B Q H d -> B Q (H d)")
        return ShiftedDense(width, self.kernel_init, self.dtype, name="proj")(out, v_bias)


class Mlp(nn.Module):
    """Linear - GELU (exact) - Linear."""

    hidden: int
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: jnp.dtype = jnp.float32
    out_init: Callable | None = None  # of the second layer; None: as the first

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.Dense(self.hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x)
        hidden = gelu(hidden)
        out_init = self.out_init or self.kernel_init
        return nn.Dense(x.shape[-1], kernel_init=out_init, dtype=self.dtype, name="fc2")(hidden)


def drop_path(branch: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    """Stochastic depth: drops a residual branch for whole clips with probability `rate`, rescaling the others."""
    keep = 1.0 - rate
    kept = jax.random.bernoulli(key, keep, (branch.shape[0],) + (1,) * (branch.ndim - 1))
    return jnp.where(kept, branch / keep.astype(branch.dtype), 0).astype(branch.dtype)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with optional layer scale (DINOv2) and stochastic depth."""

    num_heads: int
    mlp_ratio: float = 4.0
    qkv_bias: str = "qv"
    layer_scale: bool = False
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: jnp.dtype = jnp.float32
    backend: str = "auto"
    epsilon: float = LAYER_NORM_EPSILON

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        num_queries: int | None = None,
        drop: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """x [B N D] -> [B N D], or [B num_queries D] for the last tokens only.

        Args:
          drop: (rate, key) of stochastic depth, or None.
        """
        width = x.shape[-1]
        keys = jax.random.split(drop[1]) if drop is not None else (None, None)

        def branch(y, name, key):
            if self.layer_scale:
                y = y * self.param(name, nn.initializers.ones, (width,)).astype(y.dtype)
            return y if key is None else drop_path(y, drop[0], key)

        attention = Attention(self.num_heads, self.qkv_bias, self.kernel_init, self.dtype, self.backend, name="attn")
        attended = attention(LayerNorm(self.dtype, self.epsilon, name="norm1")(x), num_queries)
        if num_queries is not None:
            x = x[:, -num_queries:]
        x = x + branch(attended, "scale1", keys[0])
        mlp = Mlp(int(width * self.mlp_ratio), self.kernel_init, self.dtype, name="mlp")
        return x + branch(mlp(LayerNorm(self.dtype, self.epsilon, name="norm2")(x)), "scale2", keys[1])


@functools.partial(jax.jit, static_argnums=(1, 2, 3))  # traced once: Flax asks for its shapes at every call of a model
def init_stack(key: jax.Array, block: Block, depth: int, width: int):
    """Parameters of `depth` blocks, each leaf with a leading L axis."""
    example = jax.ShapeDtypeStruct((1, 2, width), jnp.float32)
    zeros = jnp.zeros(example.shape, example.dtype)
    return jax.vmap(lambda k: block.init(k, zeros)["params"])(jax.random.split(key, depth))


def run_stack(
    block: Block,
    params,
    x: jax.Array,
    *,
    num_outputs: int | None = None,
    drop: tuple[float, jax.Array] | None = None,
    remat: str = "none",
    unroll: int = 1,
    collect: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Runs stacked blocks.

    Args:
      params: from `init_stack`.
      x: [B N D].
      num_outputs: the last block computes the last `num_outputs` tokens only; its keys and values come from all tokens.
      drop: (largest rate, key) of stochastic depth; the rate grows linearly from 0 at the first block.
      remat: what the backward pass recomputes, a key of REMAT_POLICIES.
      unroll: blocks per step of the scan; 0 or the depth: no scan.
      collect: also return every block's output [L B N D] (not together with num_outputs).

    Returns:
      x after all blocks, [B N D] or [B num_outputs D], and the collected outputs or None.
    """
    if remat not in REMAT_POLICIES:
        raise InvalidValue(f"remat {remat!r} is unknown: choose one of {tuple(REMAT_POLICIES)}")
    depth = jax.tree.leaves(params)[0].shape[0]
    drops = None
    if drop is not None:
        drops = (jnp.linspace(0.0, drop[0], depth), jax.random.split(drop[1], depth))

    def step(x, layer, num_queries=None):
        layer_params, layer_drop = layer
        kernels = stored_kernels(gathered(layer_params), block.dtype)
        y = block.apply({"params": kernels}, split_clips(x), num_queries, layer_drop)
        return split_clips(y)

    if remat != "none":
        step = jax.checkpoint(step, policy=REMAT_POLICIES[remat], static_argnums=(2,))

    layers = (params, drops)
    last = None
    if num_outputs is not None and num_outputs < x.shape[1]:
        last = jax.tree.map(lambda p: p[-1], layers)
        layers = jax.tree.map(lambda p: p[:-1], layers)
        depth -= 1

    def scan_step(x, layer):
        y = step(x, layer, None)
        return y, (y if collect else None)

    outputs = None
    if depth:
        x, outputs = jax.lax.scan(scan_step, x, layers, unroll=min(unroll, depth) if unroll else depth)
    if last is not None:
        x = step(x, last, num_outputs)
    return x, outputs
