"""The best weights: the highest number stays, a failed save does not count, and they lie beside the checkpoints."""

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sigma_jax.checkpoints.best import BestWeights, best_folder
from sigma_jax.checkpoints.manager import find_checkpoint, read_meta, restore_subtree


@pytest.mark.parametrize(
    "checkpoints,best",
    [
        ("/runs/a/checkpoints", "/runs/a/best"),
        ("gs://bucket/a/checkpoints", "gs://bucket/a/best"),
        ("gs://bucket/a", "gs://bucket/a/best"),
        ("/kept/a", "/kept/a/best"),
    ],
)
def test_it_lies_beside_the_checkpoints_of_its_own_run(checkpoints, best):
    assert str(best_folder(checkpoints)) == best


def params(value: float) -> dict:
    return {"w": jnp.full((8, 4), value)}


def kept(folder) -> float:
    return float(restore_subtree(folder, {"params": params(0)})["params"]["w"][0, 0])


def test_the_highest_stays_over_restarts(tmp_path):
    best = BestWeights(tmp_path / "best", "val/top1", lambda: {"run": "mine"})
    assert best.offer(10, params(1), 50.0)
    assert not best.offer(20, params(2), 50.0) and not best.offer(30, params(3), np.nan)
    best = BestWeights(tmp_path / "best", "val/top1", lambda: {"run": "mine"})
    assert not best.offer(40, params(4), 49.0)
    assert best.offer(50, params(5), 51.0)
    assert kept(tmp_path / "best") == 5 and find_checkpoint(tmp_path / "best").name == "50"
    assert read_meta(tmp_path / "best") == {"run": "mine", "val_top1": 51.0}


def test_a_record_counts_only_when_its_weights_are_saved(tmp_path, monkeypatch, caplog):
    best = BestWeights(tmp_path / "best", "val/top1", dict)
    assert best.offer(10, params(1), 50.0)

    def refuse(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", refuse)
        assert not best.offer(20, params(2), 60.0)
    assert "val_top1 60.0 at step 20) are not kept" in caplog.text and kept(tmp_path / "best") == 1
    assert best.offer(30, params(3), 60.0), "as good as what was lost, better than what is kept"
    assert kept(tmp_path / "best") == 3
