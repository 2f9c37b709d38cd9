"""Products of 8-bit numbers: rounding, bounds that hold, and a block that stays close to the one it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.models.fp8 import Fp8Block
from sigma_jax.models.transformer import Block
from sigma_jax.ops import fp8


def test_numbers_keep_four_bits_and_none_overflows():
    round_to_fp8 = jax.jit(fp8.round_to_fp8)
    for bound in (0.01, 448.0, 449.0, 10_000.0):
        x = np.float32(bound * np.exp2(np.linspace(-13.0, 0.0, 4001)) * np.where(np.arange(4001) % 2, 1.0, -1.0))
        rounded = np.asarray(round_to_fp8(x, np.float32(bound)))
        assert np.max(np.abs(rounded / x - 1)) <= 2**-4
        assert len(np.unique(rounded)) < 260
    assert float(round_to_fp8(np.float32(448.5), np.float32(448.0))) == 448.0  # e4m3 would have made it NaN
    assert np.all(np.asarray(round_to_fp8(np.zeros(3, np.float32), np.float32(0.0))) == 0)


@pytest.fixture(scope="module")
def drawn():
    """A block of width 64, its parameters with large norms and biases, and tokens of one image [1 9 64]."""
    block = Block(4, qkv_bias="qkv", layer_scale=True)
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((1, 9, 64), np.float32) + 5
    params = jax.device_get(jax.jit(block.init)(jax.random.key(0), x)["params"])
    return block, jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params), x


def test_what_leaves_norms_attention_and_layers_is_bounded(drawn, monkeypatch):
    block, params, x = drawn
    seen = []

    def checked(x, bound, dtype=None):
        seen.append(jnp.max(jnp.abs(x)) / bound)
        return x

    monkeypatch.setattr(fp8, "round_to_fp8", checked)
    found, shares = jax.jit(lambda *args: (Fp8Block(block).apply(*args), seen))({"params": params}, x)
    assert len(shares) == 10  # four arrays of activations, six kernels
    assert max(map(float, shares)) <= 1.0 + 1e-6
    np.testing.assert_allclose(found, jax.jit(block.apply)({"params": params}, x), atol=2e-5)  # nothing else differs


def test_a_block_in_8_bits_stays_close_to_its_block(drawn):
    block, params, x = drawn
    wanted, found = (
        (np.asarray(jax.jit(one.apply)({"params": params}, x)) - x).ravel() for one in (block, Fp8Block(block))
    )
    cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
    assert 0.995 < cosine < 0.99999


def test_only_whole_blocks_without_chance_run_in_8_bits(drawn):
    block, params, x = drawn
    with pytest.raises(NotImplementedError, match="all tokens"):
        Fp8Block(block).apply({"params": params}, x, 3)
