"""The fused cross-entropy, kept scores and Sinkhorn's forms against the plain ones: values, gradients, assignments."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.objective.cross_entropy import cross_entropy
from sigma_jax.objective.sigma import sharded_symmetric_loss, symmetric_loss
from sigma_jax.ops.scores import FIXED_POINT, SCORE_DTYPES, Sweeps, keep_scores, platform_sweeps, widen
from sigma_jax.ops.sinkhorn import hard_assignments, prototype_scalings
from sigma_jax.runtime.sharding import BATCH_AXES, make_mesh
from sigma_jax.tools.benchmarks.objective import sample_sides

TOKENS, PROTOTYPES = 1531, 200  # a prime: blocks of 64 rows leave a rest


kept_scores = jax.jit(keep_scores, static_argnums=2)


@pytest.fixture(scope="module")
def sides():
    """Unit features [n E] and prototypes [K E]."""
    return jax.jit(sample_sides, static_argnums=(1, 2, 3))(jax.random.key(0), TOKENS, PROTOTYPES, 64)


@pytest.fixture(scope="module")
def scores(sides):
    return kept_scores(*sides, Sweeps())


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(1).integers(PROTOTYPES, size=TOKENS, dtype=np.int32)


def plain_cross_entropy(features, prototypes, assigned, temperature):
    rows = jax.nn.log_softmax(features @ prototypes.T / temperature)
    return -jnp.mean(jnp.sum(assigned * rows, axis=1))


def kept_cross_entropy(features, prototypes, assigned, temperature, sweeps):
    scores = keep_scores(features, prototypes, sweeps)
    return cross_entropy(features, prototypes, scores, assigned, temperature, sweeps)


def relative_error(ours, plain) -> float:
    return np.linalg.norm(np.asarray(ours) - np.asarray(plain)) / np.linalg.norm(plain)


@pytest.mark.parametrize("assigns", ["hard", "soft"])
@pytest.mark.parametrize(
    ("sweeps", "temperature", "limit"),
    [
        (Sweeps(), 0.1, 2e-6),
        (Sweeps(block_rows=64), 0.01, 2e-6),
        (Sweeps("float16"), 0.1, 2e-3),
        (Sweeps("int16"), 0.1, 1e-3),
        (Sweeps("int16", operands="bfloat16"), 0.1, 8e-3),
        (Sweeps("bfloat16"), 0.1, 2e-2),
    ],
    ids=str,
)
def test_value_and_gradients(sides, labels, assigns, sweeps, temperature, limit):
    """Also that a gradient of 1 / (n tau) of a softmax over K does not underflow in 16 bits."""
    one_hot = np.eye(PROTOTYPES, dtype=np.float32)[labels]
    assigned = labels if assigns == "hard" else 0.7 * one_hot + 0.3 / PROTOTYPES
    plain_assigned = one_hot if assigns == "hard" else assigned
    loss, ours = jax.jit(jax.value_and_grad(kept_cross_entropy, (0, 1)), static_argnums=(3, 4))(
        *sides, assigned, temperature, sweeps
    )
    value_and_gradients = jax.jit(jax.value_and_grad(plain_cross_entropy, (0, 1)))
    plain_loss, plain = value_and_gradients(*sides, plain_assigned, temperature)
    np.testing.assert_allclose(loss, plain_loss, rtol=limit)
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == jnp.float32 and relative_error(a, b) < limit


@pytest.mark.parametrize(("learns", "products"), [((0, 1), 3), ((0,), 2), ((1,), 2)])
def test_only_the_products_that_are_needed_are_computed(sides, labels, learns, products):
    """One for the scores, one for each side that learns; nothing of the scores' size is kept besides the scores."""

    def loss(*sides):
        return kept_cross_entropy(*sides, labels, 0.1, Sweeps("float16"))

    traced = str(jax.make_jaxpr(jax.grad(loss, learns))(*sides))
    assert traced.count("dot_general[") == products
    backward = jax.eval_shape(lambda *sides: jax.vjp(loss, *sides)[1], *sides)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.size >= TOKENS * PROTOTYPES]
    assert [leaf.dtype for leaf in kept] == [jnp.float16]


@pytest.mark.parametrize("temperature", [0.1, 0.025, 0.001])
def test_extreme_scores(temperature):
    features, prototypes = jnp.asarray([[1.0], [-1.0], [1.0]]), jnp.asarray([[1.0], [-1.0]])
    labels = jnp.asarray([0, 1, 0])
    ours = kept_cross_entropy(features, prototypes, labels, temperature, Sweeps())
    plain = plain_cross_entropy(features, prototypes, jax.nn.one_hot(labels, 2), temperature)
    np.testing.assert_allclose(ours, plain, rtol=2e-6)


@pytest.mark.parametrize("dtype", SCORE_DTYPES)
def test_kept_scores_are_close_and_inside_their_range(dtype):
    sides = jax.jit(sample_sides, static_argnums=(1, 2, 3))(jax.random.key(7), 67, 31, 48)
    features, prototypes = map(np.array, sides)
    prototypes[:2] = features[0], -features[0]  # scores of 1 and -1
    kept = kept_scores(features, prototypes, Sweeps(dtype))
    assert kept.dtype == dtype
    limit = {"float32": 1e-6, "float16": 2.0**-10, "int16": 5e-4, "bfloat16": 2.0**-7}[dtype]
    np.testing.assert_allclose(widen(kept), features @ prototypes.T, atol=limit)
    if dtype == "int16":
        assert abs(int(kept[0, 0]) - FIXED_POINT) < 0.0005 * FIXED_POINT and int(kept[0, 1]) < 0


def loop_values(jaxpr):
    """What goes into the loops of a program, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("while", "scan"):
            yield from (variable.aval for variable in equation.invars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(value, "jaxpr"):
                yield from loop_values(value.jaxpr)
            elif hasattr(value, "eqns"):
                yield from loop_values(value)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("ambient", ["default", "bfloat16", "highest"])
def test_products_of_the_objective_state_their_precision(platform, ambient):
    """In the program lowered for a platform, whatever jax_default_matmul_precision says: fp32 operands are multiplied
    as fp32, all others have 16 bits; and Sinkhorn's loop holds no wide [n K] matrix where scores are kept narrow."""
    sweeps = platform_sweeps(platform)

    def loss(predictions, projections, prototypes):
        return symmetric_loss(predictions, projections, prototypes, epsilon=0.05, sweeps=sweeps)[0]

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((70, 24), (70, 24), (33, 24))]
    with jax.default_matmul_precision(ambient):
        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*shapes)
        text = traced.lower(lowering_platforms=({"gpu": "cuda"}.get(platform, platform),)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 5  # two of scores, three of gradients
    for line in products:
        operands = re.search(r": \(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>", line).groups()
        if platform == "cpu":
            assert "precision = [HIGHEST, HIGHEST]" in line, line
        else:
            assert "precision = [DEFAULT, DEFAULT]" in line and not any("f32" in shape for shape in operands[:2]), line
    held = [aval for aval in loop_values(traced.jaxpr.jaxpr) if aval.shape == (70, 33)]
    if platform != "cpu":
        assert held and {aval.dtype.name for aval in held} == {"int16"}, "what Sinkhorn's loop reads of the scores"


@partial(jax.jit, static_argnums=(1, 2))
def assigned(scores, epsilon, sweeps):
    """Prototypes, scalings and marginal error."""
    scalings, error = prototype_scalings(scores, epsilon=epsilon, num_iters=10, sweeps=sweeps)
    return hard_assignments(scores, scalings, epsilon, sweeps.block_rows), scalings, error


@pytest.mark.parametrize("epsilon", [0.05, 0.03])
@pytest.mark.parametrize(
    "sweeps,agreement", [(Sweeps(block_rows=64), 0.9999), (Sweeps("float16"), 0.99), (Sweeps("int16"), 0.999)]
)
def test_assignments_agree_with_the_plain_form(sides, scores, epsilon, sweeps, agreement):
    expected, plain, plain_error = jax.device_get(assigned(scores, epsilon, Sweeps()))
    found, ours, error = jax.device_get(assigned(kept_scores(*sides, sweeps), epsilon, sweeps))
    assert found.dtype == jnp.int32
    assert np.mean(expected == found) >= agreement
    if sweeps.dtype == "float32":
        np.testing.assert_allclose(ours, plain, atol=1e-5)
        np.testing.assert_allclose(error, plain_error, atol=1e-5)
    else:  # the option does something
        assert np.max(np.abs(ours - plain)) > 0


def test_rows_of_nan_get_a_valid_prototype():
    find = jax.jit(partial(hard_assignments, epsilon=0.05, block_rows=64))
    found = np.asarray(find(np.full((70, 5), np.nan, np.float32), np.zeros(5, np.float32)))
    assert found.shape == (70,) and found.max() < 5


def test_sweeps_are_resolved_per_platform():
    assert platform_sweeps("cpu") == Sweeps("float32", 64)
    assert platform_sweeps("gpu") == Sweeps("int16", 0, "float16")
    assert platform_sweeps("tpu") == Sweeps("int16", 0, "bfloat16")
    assert platform_sweeps("gpu", "float32") == Sweeps("float32", 0)
    with pytest.raises(ValueError, match="float16"):
        platform_sweeps("gpu", "int8")


@pytest.mark.parametrize("sweeps", [Sweeps(block_rows=64), Sweeps("float16"), Sweeps("int16")], ids=lambda s: s.dtype)
def test_eight_devices_compute_the_same_loss_and_gradient(devices, sweeps):
    keys = jax.random.split(jax.random.key(3), 3)
    predictions, projections = (jax.random.normal(key, (8, 70, 16)) for key in keys[:2])
    prototypes = jax.random.normal(keys[2], (33, 16))
    prototypes = prototypes / jnp.linalg.norm(prototypes, axis=1, keepdims=True)
    settings = {"epsilon": 0.05, "sweeps": sweeps}
    over_mesh = sharded_symmetric_loss(make_mesh(), BATCH_AXES, **settings)

    def sharded(predictions, projections, prototypes):
        return over_mesh(predictions, projections, prototypes)[:2]  # no queue

    def single(predictions, projections, prototypes):
        flat = (x.reshape(-1, 16) for x in (predictions, projections))
        return symmetric_loss(*flat, prototypes, **settings)

    arguments = (predictions, projections, prototypes)
    ours, plain = (jax.jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))(*arguments) for f in (sharded, single))
    ((ours_loss, ours_metrics), ours_gradient), ((loss, metrics), gradient) = ours, plain
    np.testing.assert_allclose(ours_loss, loss, rtol=1e-6)
    rounding = 0.0 if sweeps.dtype == "float32" else 2.0**-9  # softmax - assignment is rounded to 16 bits
    for a, b in zip(ours_gradient, gradient, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=rounding)
    for name, value in metrics.items():  # marginal errors are differences of nearly equal numbers
        np.testing.assert_allclose(ours_metrics[name], value, atol=1e-5 if "marginal" in name else 2e-6)
