"""The strict loader: four lists, what may be absent, the report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.weights.loading import Allowed, fit, load_into, names_in
from sigma_jax.weights.weights_file import Weights, WeightsMismatch, content_digest, flatten


def weights(**changes) -> Weights:
    params = {
        "encoder": {"norm": {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}},
        "head": {"kernel": np.full((3, 2), 2, np.float32)},
    }
    return Weights("classifier", params | changes, {}, "file.npz")


def model(classes: int = 2) -> dict:
    params = jax.tree.map(lambda x: jnp.full(x.shape, 7.0), weights().params)
    return params | {"head": {"kernel": jnp.full((3, classes), 7.0)}}


def test_everything_fits():
    params, report = load_into(weights(), model())
    assert report.fraction == 1 and report.num_loaded == 12 and len(report.loaded) == 3
    assert jax.tree.all(jax.tree.map(np.array_equal, params, weights().params))
    assert "3 arrays loaded, 12 of 12 parameters (100.0 %)" in report.lines()[0]
    assert weights().digest() in report.lines()[0]


def test_missing_is_an_error_unless_named():
    lacking = Weights("classifier", {"encoder": weights().params["encoder"]}, {}, "file.npz")
    with pytest.raises(WeightsMismatch, match=r"file\.npz does not fit.*\n  missing: head/kernel \(head\.weight\)"):
        load_into(lacking, model())
    params, report = load_into(lacking, model(), Allowed(missing=("head",)))
    assert float(params["head"]["kernel"][0, 0]) == 7.0 and float(params["encoder"]["norm"]["scale"][0]) == 1.0
    assert report.missing == ("head/kernel",) and report.fraction == 0.5
    assert any("missing, fresh values kept: head/kernel" in line for line in report.lines())


def test_another_shape_is_an_error_unless_named():
    with pytest.raises(WeightsMismatch, match=r"other shape: head/kernel .*file \(3, 2\), model \(3, 5\)"):
        load_into(weights(), model(classes=5))
    params, report = load_into(weights(), model(classes=5), Allowed(missing=("head",)))
    assert params["head"]["kernel"].shape == (3, 5) and "file (3, 2), model (3, 5)" in report.other_shape[0]


def test_unexpected_is_an_error_unless_named():
    more = weights(decoder={"mask_token": np.zeros(4, np.float32)})
    with pytest.raises(WeightsMismatch, match="unexpected: decoder/mask_token"):
        load_into(more, model())
    _, report = load_into(more, model(), Allowed(unexpected=("decoder",)))
    assert report.unexpected == ("decoder/mask_token",)


def test_a_name_covers_whole_parts_only():
    with pytest.raises(WeightsMismatch, match="--allow_missing=hea: the model has no such part, only encoder, head"):
        load_into(weights(), model(), Allowed(missing=("hea",)))


def test_not_finite_is_an_error():
    broken = weights(head={"kernel": np.full((3, 2), np.nan, np.float32)})
    with pytest.raises(WeightsMismatch, match="not finite: head/kernel"):
        fit(broken, model())


def test_sharding_and_type_are_the_models():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    fresh = {"kernel": jax.device_put(jnp.zeros((8, 2), jnp.bfloat16), sharding)}
    array = np.arange(16, dtype=np.float32).reshape(8, 2)
    params, _ = load_into(Weights("encoder", {"kernel": array}, {}, "f"), fresh)
    assert params["kernel"].sharding == sharding and params["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(params["kernel"], np.float32), array)


def test_the_digest_sees_names_shapes_and_bits():
    flat = flatten(weights().params)
    digest = content_digest(flat)
    assert digest == content_digest(dict(reversed(flat.items()))) and len(digest) == 16
    flipped = {**flat, "head/kernel": flat["head/kernel"].copy()}
    flipped["head/kernel"].view(np.uint32)[0, 0] ^= 1
    reshaped = {**flat, "head/kernel": flat["head/kernel"].reshape(2, 3)}
    renamed = {name.replace("head", "tail"): array for name, array in flat.items()}
    assert len({digest, *map(content_digest, (flipped, reshaped, renamed))}) == 4


def test_names_in():
    assert names_in("head, decoder/head,") == ("head", "decoder/head") and names_in(None) == ()
