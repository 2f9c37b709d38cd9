"""Products of 8-bit numbers: rounding, bounds that hold, and a block that stays close to the one it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.models.fp8 import Fp8Block
from sigma_jax.models.transformer import Block
from sigma_jax.ops import fp8


def test_numbers_keep_four_bits_and_none_overflows():
    for bound in (0.01, 448.0, 449.0, 10_000.0):
        x = bound * jnp.exp2(jnp.linspace(-13.0, 0.0, 4001)) * jnp.where(jnp.arange(4001) % 2, 1.0, -1.0)
        rounded = fp8.round_to_fp8(x, jnp.float32(bound))
        assert float(jnp.max(jnp.abs(rounded / x - 1))) <= 2**-4
        assert len(jnp.unique(rounded)) < 260
    assert float(fp8.round_to_fp8(jnp.float32(448.5), jnp.float32(448.0))) == 448.0  # e4m3 would have made it NaN
    assert np.all(np.asarray(fp8.round_to_fp8(jnp.zeros(3), jnp.float32(0.0))) == 0)


@pytest.fixture(scope="module")
def drawn():
    """A block of width 64, its parameters with large norms and biases, and tokens of one image [1 9 64]."""
    block = Block(4, qkv_bias="qkv", layer_scale=True)
    keys = iter(jax.random.split(jax.random.key(0), 40))
    x = 3 * jax.random.normal(next(keys), (1, 9, 64)) + 5
    params = jax.jit(block.init)(next(keys), x)["params"]
    return block, jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params), x


def test_what_leaves_norms_attention_and_layers_is_bounded(drawn, monkeypatch):
    block, params, x = drawn
    seen = []

    def checked(x, bound, dtype=None):
        seen.append(float(jnp.max(jnp.abs(x)) / bound))
        return x

    monkeypatch.setattr(fp8, "round_to_fp8", checked)
    found = Fp8Block(block).apply({"params": params}, x)
    assert len(seen) == 10  # four arrays of activations, six kernels
    assert max(seen) <= 1.0 + 1e-6
    np.testing.assert_allclose(found, block.apply({"params": params}, x), atol=2e-5)  # nothing else differs


def test_a_block_in_8_bits_stays_close_to_its_block(drawn):
    block, params, x = drawn
    wanted = np.asarray(block.apply({"params": params}, x) - x).ravel()
    found = np.asarray(Fp8Block(block).apply({"params": params}, x) - x).ravel()
    cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
    assert 0.995 < cosine < 0.99999


def test_only_whole_blocks_without_chance_run_in_8_bits(drawn):
    block, params, x = drawn
    with pytest.raises(NotImplementedError, match="all tokens"):
        Fp8Block(block).apply({"params": params}, x, 3)
