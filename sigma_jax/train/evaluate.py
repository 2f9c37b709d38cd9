"""`--mode=eval`: restore weights onto the mesh at hand and measure them; nothing is trained, no checkpoint touched."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from sigma_jax.checkpoints.manager import CheckpointError, find_checkpoint, read_meta
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.sharding import make_mesh, state_shardings
from sigma_jax.train.classification_tests import Bench
from sigma_jax.train.initial_weights import heads_of
from sigma_jax.train.registry import kind_of
from sigma_jax.train.setup import build_compute
from sigma_jax.train.state import TrainState
from sigma_jax.weights.formats import read_weights
from sigma_jax.weights.loading import load_into, say


def evaluate(config: Any, workdir: Path, data_dir: str, init: str) -> dict[str, float]:
    """Runs the test of a finetuned or probed checkpoint; writes to workdir/eval.

    Args:
      init: a run's folder, its `best`, its `checkpoints`, or one step of them, written on any mesh; or a file.

    Raises:
      CheckpointError, ValueError: no such checkpoint, another model, other classes, or a workdir inside it.
    """
    kind = kind_of(config)
    if kind.test is None:
        raise InvalidValue(
            f"task {config.task!r} has no test: evaluate a finetuned or probed model, or use tools.probe"
        )
    folder = find_checkpoint(init) if Path(init).is_dir() else None
    if folder is not None and Path(str(folder)) in (workdir.resolve(), *workdir.resolve().parents):
        raise InvalidValue(f"--workdir={workdir} lies in the checkpoint {folder}, which is only read: choose another")
    config = kind.resolve(config, data_dir)
    if folder is not None:
        check_fits(config, read_meta(folder).get("config", {}), str(folder))
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    task = kind.task(config, mesh, build_compute(config.compute))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    weights = read_weights(str(folder or init), **heads_of(task.size))
    params, report = load_into(weights, shapes)
    say(report)
    params = jax.tree.map(jax.device_put, params, state_shardings(mesh, shapes))
    step = int(folder.name) if folder is not None else 0
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(jnp.int32(step), params, (), zero, zero, {})
    test = kind.test(Bench(config, workdir, data_dir, task, mesh, source=str(folder or init)))
    numbers = dict(test.run(state, step))
    logging.info("%s of step %d: %s", test.name, step, {name: round(value, 2) for name, value in numbers.items()})
    return numbers


def check_fits(config: Any, saved: dict, place: str) -> None:
    """Raises CheckpointError where a checkpoint's own config names another model or other classes."""
    if saved.get("task") == "pretrain":
        raise CheckpointError(
            f"{place} is a pre-training checkpoint without a classifier: train one first, "
            "python -m sigma_jax.main --config=configs/linear_probe.py:... --init=..."
        )
    model, data = saved.get("model", {}), saved.get("data", {})
    for name in ("size", "num_frames", "tube_size", "pooling"):
        here, there = getattr(config.model, name), model.get(name)
        there = tuple(there) if isinstance(there, list) else there
        if there is not None and there != here:
            raise CheckpointError(f"{place} has model.{name}={there}, this config {here}: use the config it came from")
    if data.get("label_hash") not in (None, config.data.label_hash):
        raise CheckpointError(
            f"the head of {place} knows the classes of label map {data['label_hash']} ({data.get('num_classes')} "
            f"classes), the data have {config.data.label_hash} ({config.data.num_classes}): its classes mean something "
            "else. Use the data set it was trained on, or train a head for this one"
        )
