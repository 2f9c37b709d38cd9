"""Mesh, partition rules and their goldens, FSDP: bytes per device and equality with data parallelism."""

import difflib
import functools
import os
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.runtime import config as configs
from sigma_jax.runtime import sharding
from sigma_jax.train.program import Program
from sigma_jax.train.setup import plan_program
from tests.train.collectives import check_nothing_grows_with_the_batch

CLIPS = 5  # of each device
SMALL = {"batch_size": str(8 * CLIPS), "max_batch_per_device": str(CLIPS), "model__image_size": "16"}
GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = ("size=B,target=mlp", "size=B,target=dino", "size=L,target=dino")


@functools.cache
def program(spec: str, fsdp: int, **changes) -> Program:
    config = configs.load_config(spec)
    changes = {name.replace("__", "."): value for name, value in changes.items()} | {"mesh.fsdp": str(fsdp)}
    return plan_program(configs.apply_overrides(config, changes), num_records=1000)


@pytest.mark.parametrize("case", CASES)
def test_partition_specs_are_the_reviewed_ones(case):
    """SIGMA_WRITE_GOLDENS=1 writes the text anew; review the difference before committing it."""
    params = program(f"configs/k400.py:{case}", 8).abstract_state.params
    text = "\n".join(sharding.describe_specs(params, 8)) + "\n"
    golden = GOLDENS / f"partition_specs_{case.replace('size=', '').replace(',target=', '_')}.txt"
    if os.environ.get("SIGMA_WRITE_GOLDENS"):
        golden.write_text(text)
    changed = list(difflib.unified_diff(golden.read_text().splitlines(), text.splitlines(), lineterm="", n=0))
    assert not changed, f"{golden.name} differs:\n" + "\n".join(changed)


@pytest.mark.parametrize("case", CASES)
def test_fsdp_holds_an_eighth_of_the_parameters_and_moments(case):
    state = program(f"configs/k400.py:{case}", 8).abstract_state
    for tree in (state.params, state.opt_state):
        total = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        assert sharding.bytes_per_device(tree) <= 1.05 * total / 8


def test_moments_live_where_their_parameters_live():
    state = program("configs/k400.py:size=B,target=dino", 8).abstract_state
    specs = {sharding.path_of(path): leaf.sharding.spec for path, leaf in jax.tree.leaves_with_path(state.params)}
    moments = {sharding.path_of(path): leaf.sharding.spec for path, leaf in jax.tree.leaves_with_path(state.opt_state)}
    for name, spec in specs.items():
        held = [found for path, found in moments.items() if path.endswith(f"/{name}")]
        assert len(held) == 2 and set(held) == {spec}, name


@pytest.fixture(scope="module")
def first_state():
    built = program("configs/demo.py:size=tiny", 1, **SMALL)
    return compiled(built.init_state.lower())()


def compiled(lowered):
    """Compiled in a hurry: what is tested is the partitioning, not the speed."""
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


def trained(fsdp: int, first_state) -> tuple[list[float], jax.Array, str]:
    """Losses of three steps, the last state, and the text of the compiled step."""
    built = program("configs/demo.py:size=tiny", fsdp, **SMALL)
    videos = np.random.default_rng(0).integers(0, 256, (3, 8 * CLIPS, 8, 16, 16, 3)).astype(np.uint8)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, built.abstract_state)
    state = jax.device_put(jax.device_get(first_state), shardings)
    batches = [sharding.shard_batch(built.task.mesh, {"video": video}) for video in videos]
    step, found = compiled(built.step.lower(state, {}, batches[0])), []
    for batch in batches:
        state, metrics = step(state, {}, batch)
        found.append(float(metrics["loss"]))
    return found, state, step.as_text()


def test_fsdp_trains_as_data_parallelism_does(first_state):
    """And what crosses devices does not grow with the batch; tests/train/test_step.py looks at other targets."""
    expected, _, text = trained(1, first_state)
    found, state, split = trained(8, first_state)
    check_nothing_grows_with_the_batch(text, first_state.params, CLIPS, fsdp=1)
    check_nothing_grows_with_the_batch(split, first_state.params, CLIPS, fsdp=8)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert abs(expected[0] - expected[-1]) > 1e-4, "the losses compared must move"
    for leaf, planned in zip(
        jax.tree.leaves(state),
        jax.tree.leaves(program("configs/demo.py:size=tiny", 8, **SMALL).abstract_state),
        strict=True,
    ):
        assert leaf.sharding.is_equivalent_to(planned.sharding, leaf.ndim), "the update keeps arrays where they live"
    kernel = state.params["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.addressable_shards[0].data.nbytes * 8 == kernel.nbytes


def test_a_mesh_must_make_the_device_count():
    assert dict(sharding.make_mesh(-1, 2).shape) == {"data": 4, "fsdp": 2}
    assert dict(sharding.make_mesh(2, -1).shape) == {"data": 2, "fsdp": 4}
    for wrong, nearest in (
        ((3, 1), "8 x fsdp=1"),
        ((-1, 3), "4 x fsdp=2"),
        ((3, -1), "4 x fsdp=2"),
        ((4, 4), "2 x fsdp=4"),
    ):
        with pytest.raises(ValueError, match=rf"not make 8 devices.*one of \[1, 2, 4, 8\].*nearest is data={nearest}"):
            sharding.make_mesh(*wrong)
    for wrong in ((-1, -1), (0, 8)):
        with pytest.raises(ValueError, match="does not make 8 devices"):
            sharding.make_mesh(*wrong)


def test_an_indivisible_dimension_gives_way_to_the_next():
    P = jax.sharding.PartitionSpec
    assert sharding.partition_spec("prototypes", (3000, 256), 8) == P("fsdp", None)
    assert sharding.partition_spec("prototypes", (3000, 256), 256) == P(None, "fsdp")
    assert sharding.partition_spec("encoder/embed/kernel", (7, 9), 8) == P()
    assert sharding.partition_spec("encoder/blocks/norm1/scale", (12, 768), 8) == P()


def fake_slices(count: int, size: int) -> list:
    """Devices that say which slice and process they belong to, as TPU slices joined by a data centre network do."""
    return [
        SimpleNamespace(
            id=s * size + i, slice_index=s, process_index=s, platform="gpu", device_kind="fake", client=None
        )
        for s in range(count)
        for i in range(size)
    ]


def test_fsdp_stays_inside_a_slice():
    placed = sharding._arrange(fake_slices(2, 4), data=4, fsdp=2)
    assert placed.shape == (4, 2)
    for row in placed:
        assert len({device.slice_index for device in row}) == 1
    with pytest.raises(ValueError, match="2 slices.*fsdp must stay inside a slice of 4.*multiple of 2"):
        sharding._arrange(fake_slices(2, 4), data=1, fsdp=8)


def test_frozen_and_batch_shapes_are_known_without_arrays():
    built = program("configs/k400.py:size=B,target=dino", 8)
    kernels = [leaf for leaf in jax.tree.leaves(built.abstract_frozen) if leaf.ndim > 1]
    assert kernels and all(leaf.dtype == jnp.float32 for leaf in kernels), "CPU computes in fp32"
    assert all(leaf.sharding.is_fully_replicated for leaf in kernels)
