"""`--mode=eval`: restore weights onto the mesh at hand and measure them; nothing is trained, no checkpoint touched."""

from pathlib import Path

import jax
from absl import logging

from sigma_jax.checkpoints.manager import find_checkpoint, read_meta
from sigma_jax.report.run import draw_confusion
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.sharding import state_shardings
from sigma_jax.tasks.base import Place, Task
from sigma_jax.train.initial_weights import heads_of
from sigma_jax.weights.formats import read_weights
from sigma_jax.weights.loading import load_into, say


def evaluate(task: Task, place: Place, init: str) -> dict[str, float]:
    """Runs the tests of a task, those evaluators without a schedule; they write to workdir/eval.

    Args:
      init: a run's folder, its `best`, its `checkpoints`, or one step of them, written on any mesh; or a file.

    Raises:
      CheckpointError, ValueError: no such checkpoint, another model, other classes, or a workdir inside it.
    """
    folder = find_checkpoint(init) if Path(init).is_dir() else None
    workdir = place.workdir
    if folder is not None and Path(str(folder)) in (workdir.resolve(), *workdir.resolve().parents):
        raise InvalidValue(f"--workdir={workdir} lies in the checkpoint {folder}, which is only read: choose another")
    source = str(folder or init)
    tests = [test for test in task.evaluators(place._replace(source=source)) if test.every is None]
    if not tests:
        raise InvalidValue(f"{task.summary} has no test: evaluate a finetuned or probed model, or use tools.probe")
    if folder is not None:
        task.check_origin(read_meta(folder).get("config", {}), source)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    params, report = load_into(read_weights(source, **heads_of(task.size)), shapes)
    say(report)
    params = jax.tree.map(jax.device_put, params, state_shardings(task.mesh, shapes))
    step = int(folder.name) if folder is not None else 0
    numbers = {}
    for test in tests:
        found = dict(test.run(params, step))
        logging.info("%s of step %d: %s", test.name, step, {name: round(value, 2) for name, value in found.items()})
        numbers |= found
    if jax.process_index() == 0:
        draw_confusion(workdir)
    return numbers
