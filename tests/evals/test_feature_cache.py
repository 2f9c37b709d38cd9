"""Stored features: computed once, never mixed up, recomputed when damaged."""

import json

import numpy as np
import pytest

from sigma_jax.evals.feature_cache import cached_features

MADE_OF = {"weights": "ab12", "view": {"stride": 4}}


def batches():
    yield {"video": np.zeros((3, 1, 2, 2, 3), np.uint8), "label": np.arange(3), "weight": np.asarray([1, 1, 0])}


def one(folder, made_of, network, read=batches):
    return cached_features(folder, {"it": made_of}, {"it": network}, read)["it"]


def test_the_second_time_nothing_is_computed(tmp_path):
    def compute(video):
        return np.arange(6, dtype=np.float32).reshape(3, 2)

    first = one(tmp_path, MADE_OF, compute)
    second = one(tmp_path, MADE_OF, lambda video: pytest.fail("computed"), lambda: pytest.fail("read"))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first[0].shape == (2, 2) and first[1].tolist() == [0, 1]
    (said,) = tmp_path.glob("*.json")
    assert json.loads(said.read_text()) == MADE_OF


@pytest.mark.parametrize("other", [{"weights": "ab13"}, {"view": {"stride": 2}}])
def test_other_weights_or_views_are_other_files(tmp_path, other):
    for value, made_of in enumerate((MADE_OF, MADE_OF | other)):
        features, _ = one(tmp_path, made_of, lambda v, x=value: np.full((3, 2), x, np.float32))
        assert (features == value).all()
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_a_damaged_file_is_computed_again(tmp_path):
    one(tmp_path, MADE_OF, lambda video: np.ones((3, 2), np.float32))
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    features, _ = one(tmp_path, MADE_OF, lambda video: np.full((3, 2), 5, np.float32))
    assert (features == 5).all()


def test_only_networks_without_a_file_are_computed_in_one_pass(tmp_path):
    made_of = {name: {"weights": name} for name in "abc"}
    one(tmp_path, made_of["b"], lambda video: np.full((3, 1), 7, np.float32))
    networks = {
        "a": lambda video: np.full((3, 2), 1, np.float32),
        "b": lambda video: pytest.fail("computed again"),
        "c": lambda video: np.full((3, 3), 2, np.float32),
    }
    passes = []

    def read():
        passes.append("read")
        return batches()

    found = cached_features(tmp_path, made_of, networks, read)
    assert passes == ["read"] and list(found) == ["a", "b", "c"]
    shapes = {name: (features.shape, features[0, 0]) for name, (features, _) in found.items()}
    assert shapes == {"a": ((2, 2), 1), "b": ((2, 1), 7), "c": ((2, 3), 2)}
