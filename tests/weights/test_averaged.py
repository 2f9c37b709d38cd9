"""Averaged weights: offered where a file or a run keeps them beside the model's, and taken when asked for."""

import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigma_jax
from sigma_jax.checkpoints.manager import Checkpointer
from sigma_jax.tools.convert import main
from sigma_jax.train.optimizer import adamw, with_average
from sigma_jax.train.state import TrainState
from sigma_jax.weights.formats import read_weights
from sigma_jax.weights.pth import write_pth
from sigma_jax.weights.weights_file import WeightsMismatch
from tests.weights.test_pth import text, with_company
from tests.weights.weights_samples import golden, sample


def both(path):
    """A .pth with a classifier, and an average that lacks the head, so that one tells which was taken."""
    arrays = golden("finetune_cls")[0]
    encoder = {name: array for name, array in arrays.items() if not name.startswith(("head", "fc_norm"))}
    write_pth(path, encoder, key="x")
    with zipfile.ZipFile(path) as archive:
        average = archive.read("archive/data.pkl")[3 + len(text("x")) : -2]
    return with_company(path, average, encoder | arrays, "model_ema")


def test_a_file_offers_its_average(tmp_path):
    path = both(tmp_path / "w.pth")
    plain, mean = (read_weights(path, num_heads=3, which=which) for which in ("model", "ema"))
    assert plain.kind == "classifier" and mean.kind == "encoder"
    assert plain.notes == ("the file also holds averaged weights (model_ema): --weights=ema takes them",)
    assert main([str(path), str(tmp_path / "w.npz"), "--num_heads=3", "--weights=ema"]) == 0
    assert read_weights(tmp_path / "w.npz").digest() == mean.digest()


def test_an_average_alone_is_taken_and_said(tmp_path):
    write_pth(tmp_path / "w.pth", golden("finetune_cls")[0], key="model_ema")
    assert "averaged weights only (model_ema)" in read_weights(tmp_path / "w.pth", num_heads=3).notes[0]
    write_pth(tmp_path / "w.pth", golden("finetune_cls")[0])
    with pytest.raises(WeightsMismatch, match=r"w\.pth holds no averaged weights"):
        read_weights(tmp_path / "w.pth", num_heads=3, which="ema")


def test_a_run_keeps_its_average_in_the_optimizer(tmp_path):
    weights = sample("finetune_cls")
    params = jax.tree.map(jnp.asarray, weights.params)
    optimizer = with_average(adamw(1e-3, betas=(0.9, 0.99), weight_decay=0.1), 0.9)
    averaged = optimizer.init(params)._replace(mean=jax.tree.map(lambda leaf: 2 * leaf, params))
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(jnp.int32(3), params, averaged, zero, zero, {})
    checkpoints = Checkpointer(tmp_path / "checkpoints", keep_last=1, save_every_steps=1)
    model = {"tube_size": [2, 8, 8], "num_frames": 16, "image_size": 32, "positions": "sincos_1d", "pooling": "mean"}
    meta = {"config": {"model": model}, "heads": {"num_heads": 3}}
    checkpoints.save(3, state, data_state={}, meta=meta, force=True)
    checkpoints.close()
    plain, mean = read_weights(tmp_path), read_weights(tmp_path, which="ema")
    assert plain.digest() == weights.digest() and "--weights=ema takes them" in plain.notes[0]
    np.testing.assert_array_equal(mean.params["head"]["bias"], 2 * weights.params["head"]["bias"])
    model = sigma_jax.load(tmp_path, weights="ema")
    np.testing.assert_array_equal(model.params["norm"]["scale"], 2 * weights.params["norm"]["scale"])
