"""Loads the weights that training starts from: `--init` for the model, `--teacher` for the frozen teacher.

Both may have any format of weights/formats.py. A tensor that is missing, left over or of another shape is an error
unless the user named its part.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from sigma_jax.models.sizes import TEACHER_SIZES, TeacherSize, VideoSize
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import stream
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.base import Task
from sigma_jax.train.state import TrainState
from sigma_jax.weights.facts import matched
from sigma_jax.weights.formats import read_weights
from sigma_jax.weights.frozen import teacher_size
from sigma_jax.weights.loading import Allowed, load_into, names_in, say
from sigma_jax.weights.weights_file import WeightsMismatch

DINO_PLACE = "https://dl.fbaipublicfiles.com/dino"
DINOV2_PLACE = "https://dl.fbaipublicfiles.com/dinov2"
PUBLISHED_TEACHERS = {  # our name: where its authors publish it
    "dino_s16": f"{DINO_PLACE}/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
    "dino_b16": f"{DINO_PLACE}/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    "dinov2_s14": f"{DINOV2_PLACE}/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth",
    "dinov2_b14": f"{DINOV2_PLACE}/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth",
    "dinov2_l14": f"{DINOV2_PLACE}/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth",
}


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """The flags about `--init`.

    path: a run's folder or a file of weights. allow_missing: parts of the model that may be absent from it and are
    initialised randomly. allow_unexpected: parts of the file that may be left unused. which: 'model' or 'ema'.
    """

    path: str
    allow_missing: tuple[str, ...] = ()
    allow_unexpected: tuple[str, ...] = ()
    which: str = "model"


@dataclasses.dataclass(frozen=True)
class StartFrom:
    """Where a run's first weights come from.

    init: weights of the model; None for random ones. teacher: path of the teacher's weights, where the task has a
    teacher. random_teacher: use a random teacher instead, for smoke tests.
    """

    init: InitFrom | None = None
    teacher: str | None = None
    random_teacher: bool = False


FROM_SCRATCH = StartFrom()


ADVICE = (
    "Name what may be absent with --allow_missing=PART,... and what need not be used with --allow_unexpected=PART,..."
)


def initialised(
    init_state: Callable[[], TrainState], task: Task, source: InitFrom, facts: Mapping[str, Any]
) -> Callable[[], TrainState]:
    """Like `init_state`, but with parameters from a file; optimizer state and step are those of a new run.

    Parts that a task adds to a pre-trained model (`Task.init_missing`, e.g. a classifier's head) or does not use
    (`Task.init_unused`) need not be named by the user. A classifier's head is reordered to the task's label map.

    Args:
      facts: what the task requires of the weights but no array shows, e.g. frames or the label map (weights/facts.py).

    Returns:
      Function without arguments that reads the file and makes the state. It raises WeightsMismatch, with the lists of
      what does not fit.
    """

    def start() -> TrainState:
        weights = read_weights(source.path, which=source.which)
        if weights.kind == "teacher":
            raise WeightsMismatch(f"--init={source.path} is an image teacher: give it as --teacher")
        new = task.init_missing if weights.kind != "classifier" else ()  # which has its head
        missing = (*new, *source.allow_missing)
        weights = matched(weights, facts, fresh=missing, advice="--allow_missing=head trains a new head")
        fresh = init_state()
        unused = (*task.init_unused, *source.allow_unexpected)
        params, report = load_into(weights, fresh.params, Allowed(missing, unused, ADVICE))
        say(report)
        return fresh._replace(params=params)

    return start


def heads_of(size: VideoSize) -> dict[str, int | None]:
    """Numbers of attention heads of encoder and decoder, which a checkpoint records because no array shows them."""
    return {"num_heads": size.num_heads, "decoder_num_heads": size.decoder_num_heads}


def init_from(
    path: str | None, allow_missing: str = "", allow_unexpected: str = "", which: str = "model"
) -> InitFrom | None:
    """`InitFrom` of main's flags, with parts separated by commas; None without a path.

    Raises:
      InvalidValue: parts are named, but no path is given.
    """
    if path:
        return InitFrom(path, names_in(allow_missing), names_in(allow_unexpected), which)
    if allow_missing or allow_unexpected:
        raise InvalidValue("--allow_missing and --allow_unexpected need --init=PATH: they name parts of those weights")
    return None


def with_teacher(task: Task, start: StartFrom, seed: int) -> tuple[Task, Params]:
    """The task adapted to its teacher's weights, and those weights; {} for a task without a teacher.

    Raises:
      InvalidValue: the task needs a teacher and none is given (the message says where to get it), or the reverse.
      WeightsMismatch: the file holds another teacher.
    """
    if task.teacher is None:
        if start.teacher or start.random_teacher:
            raise InvalidValue("this task has no teacher: drop --teacher, or pre-train with target=dino or feature")
        return task, {}
    if start.teacher:
        return load_teacher(task, start.teacher)
    name = next((name for name, size in TEACHER_SIZES.items() if size == task.teacher), "")
    if not start.random_teacher:
        raise InvalidValue(
            f"{task.summary} needs the weights of its teacher {name}: {how_to_get(name)} "
            "(or --random_teacher for a smoke test; target=mlp needs none)"
        )
    logging.warning("the teacher has RANDOM weights (--random_teacher): good for a smoke test, not for training")
    return task, cast_frozen(jax.jit(task.init_frozen)(stream(seed, "teacher")), task.compute.dtype)


def load_teacher(task: Task, path: str) -> tuple[Task, Params]:
    """The task adapted to the teacher in a file, and the teacher's parameters.

    Width, depth and patch size must be the config's; number of registers and layout of the positional embedding are
    taken from the file.

    Raises:
      WeightsMismatch: the file holds no teacher or another one; names the file and what was expected.
    """
    weights = read_weights(path, num_heads=task.teacher.num_heads)
    if weights.kind != "teacher":
        raise WeightsMismatch(f"--teacher={path} holds a video model ({weights.kind}), expected DINO or DINOv2")
    found = teacher_size(weights.sizes)
    follows = ("num_registers", "position_grid", "cls_position")
    expected = dataclasses.replace(task.teacher, **{name: getattr(found, name) for name in follows})
    if found != expected:
        names = [field.name for field in dataclasses.fields(TeacherSize)]
        wrong = [
            f"{name}: file {getattr(found, name)}, config {getattr(expected, name)}"
            for name in names
            if getattr(found, name) != getattr(expected, name)
        ]
        nearest = [
            name for name, size in TEACHER_SIZES.items() if (size.width, size.depth) == (found.width, found.depth)
        ]
        raise WeightsMismatch(
            f"--teacher={path} is another teacher than the config's ({'; '.join(wrong)}): choose "
            f"--config=...:teacher=NAME, for this file {' or '.join(nearest) or 'none of ours'}"
        )
    for name in follows:
        if getattr(task.teacher, name) != getattr(found, name):
            logging.info("teacher: %s is %s as in the file", name, getattr(found, name))
    task = dataclasses.replace(task, teacher=found)
    shapes = jax.eval_shape(task.init_frozen, jax.random.key(0))
    params, report = load_into(weights, shapes)
    say(report)
    return task, cast_frozen(params, task.compute.dtype)


def cast_frozen(weights: Params, dtype: jnp.dtype) -> Params:
    """Casts a frozen network's matrices to the compute type once instead of in every step; vectors stay fp32."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if x.ndim > 1 else jnp.float32), weights)


def how_to_get(teacher: str) -> str:
    """Sentence for a message: which file to download for a teacher of TEACHER_SIZES, and how to convert it."""
    if teacher not in PUBLISHED_TEACHERS:
        return f"teacher {teacher!r} is not published: convert your own with python -m sigma_jax.tools.convert"
    place = PUBLISHED_TEACHERS[teacher]
    file = place.rsplit("/", 1)[1]
    return (
        f"download {file}, published at {place}, then run python -m sigma_jax.tools.convert {file} {teacher}.npz "
        f"and pass --teacher={teacher}.npz"
    )
