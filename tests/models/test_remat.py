"""What the backward pass recomputes does not change what it computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.models.transformer import REMAT_POLICIES, Block, init_stack, run_stack


@functools.cache
def gradient(remat, num_outputs):
    block = Block(2, parent=None)
    params = init_stack(jax.random.key(0), block, 2, 8)
    x = jax.random.normal(jax.random.key(1), (2, 5, 8))

    def loss(params):
        y, _ = run_stack(block, params, x, num_outputs=num_outputs, remat=remat)
        return jnp.sum(jnp.sin(y))

    return jax.jit(jax.grad(loss))(params)


@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
@pytest.mark.parametrize("num_outputs", [None, 3])
def test_gradients_do_not_depend_on_remat(remat, num_outputs):
    ours, plain = gradient(remat, num_outputs), gradient("none", num_outputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, plain)
