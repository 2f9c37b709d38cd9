"""A frozen transformer block whose four kinds of matrix products are of 8-bit numbers (ops/fp8.py).

Letters: B images, N tokens, D width, H heads.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange

from sigma_jax.models.transformer import Block
from sigma_jax.ops import fp8
from sigma_jax.ops.activations import gelu
from sigma_jax.ops.attention import attend
from sigma_jax.ops.normalization import layer_norm
from sigma_jax.runtime.trees import Params


@dataclasses.dataclass(frozen=True)
class Fp8Block:
    """Runs the parameters of `block`, a pre-norm block with one bias of q, k and v; no gradient, no stochastic depth.

    Attention, norms, GELU and the residual stream are computed as in `block`.
    """

    block: Block

    @property
    def dtype(self) -> jnp.dtype:
        """Of everything between the products."""
        return self.block.dtype

    def apply(self, variables: Params, x: jax.Array, num_queries: None = None, drop: None = None) -> jax.Array:
        """As `Block.apply`: x [B N D] -> [B N D]. num_queries and drop: only None."""
        if num_queries is not None or drop is not None:
            raise NotImplementedError("a block of 8-bit products runs all tokens and drops none")
        params = variables["params"]
        x = x + self._branch(self._attention(x, params["norm1"], params["attn"]), params, "scale1")
        return x + self._branch(self._mlp(x, params["norm2"], params["mlp"]), params, "scale2")

    def _branch(self, y: jax.Array, params: Params, name: str) -> jax.Array:
        return y * params[name].astype(y.dtype) if self.block.layer_scale else y

    def _norm(self, x: jax.Array, params: Params) -> tuple[jax.Array, jax.Array]:
        """(the norm's output in 8 bits, largest Euclidean length of its rows)."""
        largest, length = fp8.norm_bounds(params["scale"], params["bias"])
        y = layer_norm(x, params["scale"].astype(jnp.float32), params["bias"].astype(jnp.float32), self.block.epsilon)
        return fp8.round_to_fp8(y, largest, self.dtype), length

    def _attention(self, x: jax.Array, norm: Params, params: Params) -> jax.Array:
        y, length = self._norm(x, norm)
        q_bias, _, v_bias = jnp.split(params["qkv_bias"], 3)  # that of k changes nothing, see transformer.Attention
        q_kernel, k_kernel, v_kernel = jnp.split(params["qkv"], 3, axis=1)
        pattern, heads = "B N (H d) -> B N H d", self.block.num_heads
        q, k, v = (
            rearrange(fp8.product(y, kernel, bias), pattern, H=heads)
            for kernel, bias in ((q_kernel, q_bias), (k_kernel, None), (v_kernel, v_bias))
        )
        # an average of values is no larger than the largest of them
        bound = fp8.output_bound(v_kernel, length, v_bias)
        out = rearrange(attend(q, k, v, self.block.backend), "B N H d -> B N (H d)")
        return fp8.product(fp8.round_to_fp8(out, bound), params["proj"]["kernel"], params["proj"]["bias"])

    def _mlp(self, x: jax.Array, norm: Params, params: Params) -> jax.Array:
        y, length = self._norm(x, norm)
        first, second = params["fc1"], params["fc2"]
        bound = fp8.output_bound(first["kernel"], length, first["bias"])  # of GELU's output too: it only shrinks
        hidden = gelu(fp8.product(y, first["kernel"], first["bias"]))
        return fp8.product(fp8.round_to_fp8(hidden, bound), second["kernel"], second["bias"])
