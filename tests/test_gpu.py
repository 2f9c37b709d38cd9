"""Tests that need a GPU: JAX_PLATFORMS=cuda python -m pytest -m gpu tests. Skipped where there is none."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.models.compute import Compute
from sigma_jax.ops.attention import attend
from sigma_jax.ops.scores import Sweeps, keep_scores, platform_sweeps
from sigma_jax.ops.sinkhorn import hard_assignments, prototype_scalings
from sigma_jax.runtime.random import stream
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.tools.benchmarks.objective import sample_sides
from tests import parity
from tests.train.small import small_task, small_video

GOLDENS = Path(__file__).parent / "goldens"
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("there is no GPU here, or JAX_PLATFORMS does not name it")
    return jax.devices()[0]


@pytest.mark.parametrize("name", ["sinkhorn", "dino_vit", "pretrain_dino_swav", "pretrain_mlp_swav", "finetune_cls"])
def test_fp32_equals_the_authors_numbers(name):
    rows = parity.rows_of(GOLDENS / f"{name}.npz")
    assert rows and not [row for row in rows if not row.ok]


@pytest.mark.parametrize("queries,keys", [(160, 160), (128, 160), (197, 197), (160, 197)])
def test_cudnn_attention_equals_plain_attention(queries, keys):
    """Values and gradients, also of odd lengths."""
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, n, 3, 64), jnp.bfloat16)
        for i, n in ((0, queries), (1, keys), (2, keys))
    )

    def pulled(backend, *arrays):
        return jax.value_and_grad(lambda *a: jnp.sum(attend(*a, backend).astype(jnp.float32) ** 2), (0, 1, 2))(*arrays)

    ours, gradients = pulled("cudnn", q, k, v)
    plain, plain_gradients = pulled("xla", *(x.astype(jnp.float32) for x in (q, k, v)))
    assert float(ours) == pytest.approx(float(plain), rel=1e-2)
    for a, b in zip(gradients, plain_gradients, strict=True):
        assert float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)) < 3e-2


def loss_and_gradient(target="mlp", **compute):
    task = small_task(make_mesh(devices=jax.devices()[:1]), target, compute=Compute(**compute))
    params, frozen = task.init(stream(0, "init")), task.init_frozen(stream(0, "teacher"))
    batch = {"video": jnp.asarray(small_video(8))}
    loss, gradient = jax.jit(
        jax.value_and_grad(lambda p: task.loss(task.constrain(p), frozen, batch, 0, jnp.int32(0))[0])
    )(params)
    return float(loss), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


@pytest.mark.parametrize("target", ["pixel", "feature"])
def test_a_step_in_16_bits_stays_close_to_fp32(target):
    half, half_gradient = loss_and_gradient(target, dtype=jnp.bfloat16, backend="xla")
    whole, gradient = loss_and_gradient(target, backend="xla")
    assert half == pytest.approx(whole, rel=2e-2) and half != whole
    cosine = half_gradient @ gradient / np.linalg.norm(half_gradient) / np.linalg.norm(gradient)
    assert cosine > 0.99


def test_unrolled_blocks_equal_scanned_ones():
    (one, gradient), (other, other_gradient) = (loss_and_gradient(unroll=n, backend="xla") for n in (0, 1))
    assert one == pytest.approx(other, rel=1e-5)
    np.testing.assert_allclose(gradient, other_gradient, atol=1e-5)


def test_kept_scores_choose_what_fp32_chooses_at_3000_prototypes():
    features, prototypes = sample_sides(jax.random.key(0), 2816, 3000)

    def assign(sweeps):
        scores = keep_scores(features, prototypes, sweeps)
        scalings, _ = prototype_scalings(scores, epsilon=0.05, num_iters=10, sweeps=sweeps)
        return np.asarray(hard_assignments(scores, scalings, 0.05))

    assert np.mean(assign(platform_sweeps("gpu")) == assign(Sweeps())) >= 0.995


def test_the_objective_stores_no_wide_matrix():
    """Of the program that runs on this card: no fp32 array of the scores' size outside a fused kernel."""
    from sigma_jax.objective.sigma import symmetric_loss
    from sigma_jax.tools.planning.hlo import Module

    def loss(predictions, projections, prototypes):
        return symmetric_loss(predictions, projections, prototypes, epsilon=0.05, sweeps=platform_sweeps("gpu"))[0]

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8192, 256), (8192, 256), (3000, 256))]
    module = Module(jax.jit(jax.grad(loss, (0, 1, 2))).lower(*shapes).compile().as_text())
    stored = [i.shape for name, _ in module.runs() for i in module.computations[name].values()]
    assert not [shape for shape in stored if "f32[8192,3000]" in shape]
