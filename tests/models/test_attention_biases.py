"""Where the biases of q, k and v went: attention as the published models write it, from one product or three."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.models import transformer
from sigma_jax.models.transformer import Attention
from sigma_jax.ops.attention import attend

HEADS, WIDTH, TOKENS = 3, 24, 11


def plain_attention(params, x, num_queries):
    """softmax((x Wq + bq)(x Wk + bk)^T / sqrt d)(x Wv + bv) Wo + bo."""
    if "qkv_bias" in params:
        bias = params["qkv_bias"]
    else:
        bias = jnp.concatenate([params["q_bias"], jnp.zeros(WIDTH), params["v_bias"]])
    q, k, v = jnp.split(x @ params["qkv"] + bias, 3, axis=-1)
    q, k, v = (part.reshape(*part.shape[:2], HEADS, -1) for part in (q[:, -num_queries:], k, v))
    weights = jax.nn.softmax(jnp.einsum("BQHd,BNHd->BHQN", q, k) * q.shape[-1] ** -0.5)
    out = jnp.einsum("BHQN,BNHd->BQHd", weights, v).reshape(len(x), num_queries, WIDTH)
    return out @ params["proj"]["kernel"] + params["proj"]["bias"]


@pytest.mark.parametrize("backend", ["xla", "cudnn"])
@pytest.mark.parametrize("kind", ["qv", "qkv"])
@pytest.mark.parametrize("num_queries", [None, 4])
def test_values_and_gradients(backend, kind, num_queries, monkeypatch):
    """cuDNN's form multiplies three times; its kernel itself needs a GPU and is replaced by plain attention."""
    monkeypatch.setattr(transformer, "attend", lambda q, k, v, _: attend(q, k, v, "xla"))
    module = Attention(HEADS, kind, backend=backend)
    x = jax.random.normal(jax.random.key(0), (2, TOKENS, WIDTH))
    params = jax.device_get(jax.jit(module.init)(jax.random.key(1), x)["params"])
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda p: p + 0.3 * rng.standard_normal(p.shape, np.float32), params)  # biases start at zero

    def ours(params, x):
        return module.apply({"params": params}, x, num_queries)

    def plain(params, x):
        return plain_attention(params, x, num_queries or TOKENS)

    def gradient_and_value(function):
        def loss(params, x):
            value = function(params, x)
            return jnp.sum(value**2), value

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)

    (found, our_value), (expected, value) = gradient_and_value(ours), gradient_and_value(plain)
    # Rounding grows with the largest number, and differs from processor to processor.
    np.testing.assert_allclose(our_value, value, atol=1e-6 * np.abs(value).max())
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * largest)  # that of k's bias is exactly 0 here, and nearly so there
