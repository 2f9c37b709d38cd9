"""--teacher and --init: any format, strictly, with what follows the file and what must not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.models.dino import DinoVit
from sigma_jax.models.sizes import TEACHER_SIZES
from sigma_jax.runtime.config import load_config
from sigma_jax.train.initial_weights import FROM_SCRATCH, InitFrom, StartFrom, init_from, initialised, with_teacher
from sigma_jax.train.optimizer import adamw
from sigma_jax.train.program import fresh_state
from sigma_jax.train.setup import build_task
from sigma_jax.weights.formats import write_weights
from sigma_jax.weights.weights_file import Weights, WeightsMismatch


def task_of(arg: str):
    config = load_config(f"configs/demo.py:{arg}")
    return build_task(config, jax.devices()[:1])


def teacher_file(path, **changes) -> str:
    size = dataclasses.replace(TEACHER_SIZES["tiny"], **changes)
    shapes = jax.eval_shape(DinoVit(size).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    write_weights(path, Weights("teacher", params, dataclasses.asdict(size), "test"), "pth")
    return str(path)


def test_without_a_file_the_error_says_what_to_download_and_type():
    task = task_of("size=tiny,teacher=dino_b16,target=dino")
    with pytest.raises(ValueError) as caught:
        with_teacher(task, FROM_SCRATCH, 0)
    for part in (
        "dino_vitbase16_pretrain.pth",
        "https://dl.fbaipublicfiles.com/dino/",
        "python -m sigma_jax.tools.convert dino_vitbase16_pretrain.pth dino_b16.npz",
        "--teacher=dino_b16.npz",
    ):
        assert part in str(caught.value)


def test_a_pth_serves_as_teacher_and_its_table_layout_is_followed(tmp_path):
    task = task_of("size=tiny,teacher=tiny,target=dino")
    path = teacher_file(tmp_path / "t.pth", cls_position=False, position_grid=(3, 3), num_registers=2)
    changed, frozen = with_teacher(task, StartFrom(teacher=path), 0)
    assert changed.teacher.num_registers == 2 and not changed.teacher.cls_position
    assert frozen["positions"].shape == (9, 48) and frozen["registers"].shape == (2, 48)
    video = jnp.zeros((1, 8, 32, 32, 3), jnp.uint8)
    targets = jax.eval_shape(changed.targets, frozen, {"video": video}, jnp.zeros((1, 5), jnp.int32))
    assert targets.shape == (1, 5, 48)


def test_another_teacher_than_the_configs_is_refused(tmp_path):
    task = task_of("size=tiny,teacher=tiny,target=dino")
    path = teacher_file(tmp_path / "t.pth", depth=3)
    with pytest.raises(
        WeightsMismatch, match=r"t\.pth is another teacher than the config's \(depth: file 3, config 2\)"
    ):
        with_teacher(task, StartFrom(teacher=path), 0)
    with pytest.raises(ValueError, match="this task has no teacher"):
        with_teacher(task_of("size=tiny,target=mlp"), StartFrom(teacher=path), 0)


def task_shapes(task):
    """Shapes do for what is refused before any array is placed."""
    return lambda: jax.eval_shape(state_of(task))


def state_of(task):
    return jax.jit(lambda: fresh_state(task, adamw(1e-3, betas=(0.9, 0.95), weight_decay=0.05), 0, 2))


@pytest.fixture(scope="module")
def pixel_run(tmp_path_factory):
    """A file of the VideoMAE control at toy size, all parameters 0.25."""
    task = task_of("size=tiny,target=pixel")
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.25, np.float32), jax.eval_shape(task.init, jax.random.key(0))
    )
    sizes = {"num_heads": 3, "decoder_num_heads": 2, "num_frames": 8, "image_size": 32, "positions": "sincos_3d"}
    sizes |= {"tube_size": (2, 8, 8), "width": 96, "depth": 4, "decoder_width": 64, "decoder_depth": 2}
    path = tmp_path_factory.mktemp("init") / "pixel.npz"
    write_weights(path, Weights("pretrain", params, sizes, "test"), "npz")
    return str(path)


def test_init_is_strict_and_keeps_what_was_named(pixel_run):
    task = task_of("size=tiny,target=mlp")
    with pytest.raises(WeightsMismatch, match=r"(?s)pixel\.npz.*missing: projection/fc1/bias.*prototypes"):
        initialised(task_shapes(task), task, InitFrom(pixel_run), task.facts(""))()
    init_state = state_of(task)
    fresh = init_state()
    state = initialised(init_state, task, init_from(pixel_run, "decoder/head,prototypes,projection"), task.facts(""))()
    assert float(state.params["encoder"]["norm"]["bias"][0]) == 0.25 and int(state.step) == 0
    np.testing.assert_array_equal(state.params["prototypes"], fresh.params["prototypes"])


def test_a_teacher_is_no_start_and_names_need_a_path(tmp_path):
    task = task_of("size=tiny,target=mlp")
    with pytest.raises(WeightsMismatch, match="give it as --teacher"):
        initialised(state_of(task), task, InitFrom(teacher_file(tmp_path / "t.pth")), task.facts(""))()
    with pytest.raises(ValueError, match="need --init=PATH"):
        init_from(None, "head")


def test_other_heads_are_refused(pixel_run):
    task = task_of("size=tiny,target=pixel")
    task = dataclasses.replace(task, size=dataclasses.replace(task.size, num_heads=6))
    with pytest.raises(WeightsMismatch, match="num_heads is 3 in the weights, 6 here"):
        initialised(state_of(task), task, InitFrom(pixel_run), task.facts(""))()


@pytest.mark.parametrize("name,value", [("positions", "sincos_1d"), ("tube_size", (4, 4, 8)), ("decoder_num_heads", 1)])
def test_facts_that_no_array_tells_are_compared(pixel_run, name, value):
    task = task_of("size=tiny,target=pixel")
    with pytest.raises(WeightsMismatch, match=f"pixel.npz.* belongs to another model than .*\n  {name} is"):
        initialised(task_shapes(task), task, InitFrom(pixel_run), task.facts("") | {name: value})()


def test_averaged_weights_are_named_where_they_are_not(pixel_run):
    task = task_of("size=tiny,target=pixel")
    with pytest.raises(ValueError, match="holds one set of weights"):
        initialised(task_shapes(task), task, init_from(pixel_run, which="ema"), {})()
