"""One query over many tokens: equal to attention over keys and values that are made, without making them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.ops.attention import attend
from sigma_jax.ops.one_query import attend_one_query

B, N, H, D = 3, 11, 4, 24


def arguments(seed):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    return draw(H, D // H), draw(B, N, D), (1 + draw(D) / 4, draw(D)), draw(D, D) / 5, (draw(D, D) / 5, draw(D))


def by_keys_and_values(query, tokens, norm, key_kernel, values):
    normed = tokens * norm[0] + norm[1]
    k, v = (y.reshape(B, N, H, -1) for y in (normed @ key_kernel + 0.7, normed @ values[0] + values[1]))
    return attend(jnp.broadcast_to(query, (B, 1, *query.shape)), k, v, "xla").reshape(B, D)


@pytest.mark.parametrize("seed", [0, 1])
def test_values_and_gradients_are_those_of_keys_and_values(seed):
    given, towards = arguments(seed), jnp.asarray(np.random.default_rng(9).standard_normal((B, D)), jnp.float32)
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda given, f=f: (f(*given) * towards).sum(), argnums=0))(given)
        for f in (attend_one_query, by_keys_and_values)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5, rtol=1e-4)


def test_half_precision_stays_near():
    query, tokens, norm, key_kernel, values = arguments(2)
    exact = attend_one_query(query, tokens, norm, key_kernel, values)
    half = attend_one_query(query, tokens.astype(jnp.bfloat16), norm, key_kernel, values)
    assert half.dtype == jnp.bfloat16 and np.abs(half.astype(jnp.float32) - exact).max() < 0.05 * np.abs(exact).max()
