"""What the backward pass recomputes does not change what it computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.models.transformer import REMAT_POLICIES, Block, init_stack, run_stack


@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
@pytest.mark.parametrize("num_outputs", [None, 3])
def test_gradients_do_not_depend_on_remat(remat, num_outputs):
    block = Block(2, parent=None)
    params = init_stack(jax.random.key(0), block, 2, 8)
    x = jax.random.normal(jax.random.key(1), (2, 5, 8))

    def loss(params, remat):
        y, _ = run_stack(block, params, x, num_outputs=num_outputs, remat=remat)
        return jnp.sum(jnp.sin(y))

    gradient = jax.grad(loss)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient(params, remat), gradient(params, "none")
    )
