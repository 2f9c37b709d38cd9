"""`--mode=eval`: loads weights, runs a task's tests on them and writes the results; nothing is trained."""

from pathlib import Path
from typing import Any

import jax
from absl import logging

from sigma_jax.checkpoints.manager import find_checkpoint
from sigma_jax.data.metadata import label_hash
from sigma_jax.report.run import draw_confusion
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.sharding import state_shardings
from sigma_jax.tasks.base import Place, Task
from sigma_jax.weights.facts import matched
from sigma_jax.weights.formats import detect_format, read_weights
from sigma_jax.weights.loading import load_into, say
from sigma_jax.weights.weights_file import Weights, WeightsMismatch


def evaluate(task: Task, place: Place, init: str, which: str = "model") -> dict[str, float]:
    """Runs the tests of a task, i.e. those of its evaluators that have no schedule; they write to workdir/eval.

    Args:
      task: the task, on the mesh to use, which may differ from the one that the weights were trained on.
      place: the data folder, and the workdir for the results.
      init: a run's folder, its `best` or `checkpoints` folder or one step of it, or weights in any format of
        weights/formats.py.
      which: 'model', or 'ema' for averaged weights.

    Returns:
      The scores of all tests by name.

    Raises:
      CheckpointError: there is no such checkpoint.
      WeightsMismatch: the weights are of another model or other classes, or have no classifier.
      InvalidValue: the task has no test, or the workdir lies inside the checkpoint.
    """
    folder = find_checkpoint(init) if detect_format(init) == "orbax" else None
    workdir = place.workdir
    if folder is not None and Path(str(folder)) in (workdir.resolve(), *workdir.resolve().parents):
        raise InvalidValue(f"--workdir={workdir} lies in the checkpoint {folder}, which is only read: choose another")
    if all(test.every is not None for test in task.evaluators(place)):
        raise InvalidValue(f"{task.summary} has no test: evaluate a finetuned or probed model, or use tools.probe")
    found = read_weights(str(folder or init), which=which)
    if found.kind != "classifier":
        raise WeightsMismatch(
            f"{found.source} ({found.kind}) is a model without a classifier: train one first, "
            "python -m sigma_jax.main --config=configs/linear_probe.py:... --init=..."
        )
    weights = matched(found, task.facts(place.data_dir), same=("num_frames",))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    params, report = load_into(weights, shapes)
    say(report)
    params = jax.tree.map(jax.device_put, params, state_shardings(task.mesh, shapes))
    step = int(folder.name) if folder is not None else 0
    numbers = {}
    place = place._replace(source=str(folder or init), origin=_origin(found, weights, which))
    for test in task.evaluators(place):
        if test.every is not None:
            continue
        measured = dict(test.run(params, step))
        logging.info("%s of step %d: %s", test.name, step, {name: round(value, 2) for name, value in measured.items()})
        numbers |= measured
    if jax.process_index() == 0:
        draw_confusion(workdir)
    return numbers


def _origin(found: Weights, weights: Weights, which: str) -> dict[str, Any]:
    """The entry of a result that identifies its weights: their digest (also in the log), the hash of the head's label
    map, how the head's rows were reordered, and notes of the format."""
    said: dict[str, Any] = {"hash": weights.digest()}
    if "class_order" in weights.sizes:
        names = found.sizes.get("class_names")
        known = label_hash(list(names)) if names else found.sizes.get("label_hash")
        said["head"] = {"label_map_hash": known, "class_order": weights.sizes["class_order"]}
    if weights.notes:
        said["notes"] = list(weights.notes)
    return said | ({} if which == "model" else {"weights": which})
