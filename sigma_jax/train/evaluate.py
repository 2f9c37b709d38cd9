"""`--mode=eval`: restore weights onto the mesh at hand and measure them; nothing is trained, no checkpoint touched."""

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
    """Runs the tests of a task, those evaluators without a schedule; they write to workdir/eval.

    Args:
      init: a run's folder, its `best`, its `checkpoints`, or one step of them, written on any mesh; or weights in any
        format.
      which: 'ema' for averaged weights.

    Raises:
      CheckpointError, WeightsMismatch: no such weights, another model, other classes.
      InvalidValue: a task without a test, or a workdir inside the checkpoint.
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
    """What a result says about the weights in a file and as they were used: the digest, as the log has it, the classes
    that the head knows and what became of their order."""
    said: dict[str, Any] = {"hash": weights.digest()}
    if "class_order" in weights.sizes:
        names = found.sizes.get("class_names")
        known = label_hash(list(names)) if names else found.sizes.get("label_hash")
        said["head"] = {"label_map_hash": known, "class_order": weights.sizes["class_order"]}
    if weights.notes:
        said["notes"] = list(weights.notes)
    return said | ({} if which == "model" else {"weights": which})
