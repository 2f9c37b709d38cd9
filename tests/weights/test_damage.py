"""Damaged files of weights end in a sentence that names them, never in another exception or in other weights."""

import json
import random

import pytest

from sigma_jax.runtime.errors import UserError
from sigma_jax.weights.formats import read_weights, write_weights
from sigma_jax.weights.frozen import check
from tests.weights.weights_samples import sample

FILES = {"npz": "w.npz", "pth": "w.pth", "hf": "w/model.safetensors"}
ROUNDS = 100


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out or put in, mostly near the ends, where formats keep their tables."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(min(6000, len(data)))
        place = rng.choice((place, len(data) - 1 - place, rng.randrange(len(data))))
        kind = rng.randrange(3)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randrange(1, 50)]
        else:
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
    return bytes(data)


@pytest.mark.parametrize("form", FILES)
def test_damaged_files_are_refused_or_the_same(tmp_path, form):
    weights, rng, refused = sample("finetune_cls"), random.Random(0), 0
    path, file = tmp_path / FILES[form].split("/")[0], tmp_path / FILES[form]
    write_weights(path, weights, form)
    whole = file.read_bytes()
    for _ in range(ROUNDS):
        file.write_bytes(damaged(whole, rng))
        try:
            digest = read_weights(path, num_heads=3 if form == "pth" else None).digest()
            assert form == "hf" or digest == weights.digest()  # safetensors has no sums
        except UserError as error:
            assert path.name in str(error)
            refused += 1
    assert refused > ROUNDS / 2


@pytest.mark.parametrize("value", [None, -1, 0, 7, "x", [], {}, [3, "x"], 1e30, True], ids=str)
def test_odd_values_in_a_config_are_refused_or_do_not_matter(tmp_path, value):
    write_weights(tmp_path, sample("finetune_cls"), "hf")
    config = json.loads((tmp_path / "config.json").read_text())
    for name in config:
        (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
        try:
            check(read_weights(tmp_path))
        except UserError as error:
            assert tmp_path.name in str(error)
