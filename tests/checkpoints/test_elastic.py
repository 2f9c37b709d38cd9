"""A real training state saved on eight devices, restored on other counts and other data x fsdp splits."""

import functools

import jax
import numpy as np
import pytest

from sigma_jax.checkpoints.content_hash import content_hash
from sigma_jax.checkpoints.manager import Checkpointer, CheckpointError, restore_subtree
from sigma_jax.runtime import config as configs
from sigma_jax.runtime.sharding import make_mesh, state_shardings, with_shardings
from sigma_jax.train.setup import plan_program


@functools.cache
def planned_state(size: str):
    """Shapes and shardings of a run's state on eight devices, data x fsdp = 1 x 8."""
    values = {"batch_size": "8", "mesh.data": "1", "mesh.fsdp": "8"}
    config = configs.apply_overrides(configs.load_config(f"configs/demo.py:size={size},teacher=tiny"), values)
    return plan_program(config, 48).abstract_state


def abstract_state(data: int, fsdp: int, size: str = "tiny"):
    """The same state on another mesh, as a run there plans it."""
    state, mesh = planned_state(size), make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    return with_shardings(state, state_shardings(mesh, state))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(checkpoints folder, hashes) of a state with distinct numbers in every array, saved from data x fsdp = 1 x 8."""
    abstract = planned_state("tiny")
    rng = np.random.default_rng(0)

    def fill(leaf):
        return jax.device_put(rng.integers(0, 1000, leaf.shape).astype(leaf.dtype), leaf.sharding)

    state = jax.tree.map(fill, abstract)
    folder = tmp_path_factory.mktemp("elastic") / "checkpoints"
    checkpointer = Checkpointer(folder, keep_last=1, save_every_steps=1)
    assert checkpointer.save(5, state, data_state={"next_batch": 5}, meta={})
    checkpointer.close()
    return folder, content_hash(state)


def restore(folder, abstract):
    checkpointer = Checkpointer(folder, keep_last=1, save_every_steps=1)
    restored, data_state, _ = checkpointer.restore(5, abstract)
    checkpointer.close()
    assert data_state == {"next_batch": 5}
    return restored


@pytest.mark.parametrize("data,fsdp", [(1, 1), (1, 2), (2, 1), (1, 4), (2, 2), (8, 1), (4, 2), (2, 4)])
def test_equal_on_other_meshes(saved, data, fsdp):
    folder, hashes = saved
    abstract = abstract_state(data, fsdp)
    restored = restore(folder, abstract)
    assert content_hash(restored) == hashes
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding == wanted.sharding


def test_encoder_only_onto_one_device(saved):
    folder, hashes = saved
    encoder = {"params": {"encoder": abstract_state(1, 1).params["encoder"]}}
    restored = restore_subtree(folder, encoder)
    found = content_hash(restored)
    assert found == {name: value for name, value in hashes.items() if name.startswith("params/encoder/")}


def test_another_model_size_is_refused_with_the_difference(saved):
    folder, _ = saved
    with pytest.raises(
        CheckpointError, match=r"arrays differ \(other model size.*\n  params/.*checkpoint has.*expects"
    ):
        restore(folder, abstract_state(1, 1, size="S"))
