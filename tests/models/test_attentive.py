"""Attentive pooling: a set function of the tokens, inside the classifier too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.models.attentive import AttentivePool
from sigma_jax.models.classifier import VideoClassifier, finetune_init
from sigma_jax.models.sizes import VideoSize
from sigma_jax.ops.tubes import TubeGrid

TOKENS = np.random.default_rng(0).normal(size=(2, 7, 12)).astype(np.float32)


def test_order_of_tokens_does_not_matter_but_tokens_do():
    pool = AttentivePool(3, finetune_init)
    params = jax.device_get(jax.jit(pool.init)(jax.random.key(0), TOKENS))
    params = jax.tree.map(lambda p: np.float32(p + 0.3 * np.random.default_rng(1).normal(size=p.shape)), params)
    pooled = jax.jit(pool.apply)
    out = pooled(params, TOKENS)
    assert out.shape == (2, 12) and out.dtype == jnp.float32
    np.testing.assert_allclose(pooled(params, TOKENS[:, ::-1]), out, atol=2e-6)
    other = TOKENS.copy()
    other[0, 3, 0] += 1
    changed = np.abs(np.asarray(pooled(params, other)) - np.asarray(out)).max(axis=1)
    assert changed[0] > 1e-3 and changed[1] == 0


def test_in_the_classifier():
    grid, size = TubeGrid(4, 16, (2, 4, 4)), VideoSize(12, 1, 3, 0, 1)
    video = np.zeros((1, 4, 16, 16, 3), np.uint8)
    shapes = {
        pooling: jax.eval_shape(VideoClassifier(grid, size, 5, pooling=pooling).init, jax.random.key(0), video)
        for pooling in ("mean", "attentive")
    }
    assert shapes["attentive"]["params"].keys() - shapes["mean"]["params"].keys() == {"pool"}
    with pytest.raises(ValueError, match="pooling 'max' is unknown: choose mean"):
        jax.eval_shape(VideoClassifier(grid, size, 5, pooling="max").init, jax.random.key(0), video)
