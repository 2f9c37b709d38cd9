"""The training loop of all tasks, in this order:

start:       restore the newest checkpoint, or initialise
each step:   save a checkpoint if one is due (on a preemption notice save and stop); take the next batch and start the
             copy of the one after it; run the compiled step; every `log_every` write the metrics of an earlier step,
             which is the only time the host waits for the device; run the evaluators that are due
end:         save the last step and wait until it is written; run every evaluator that has not measured it
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import platform
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from sigma_jax import __version__
from sigma_jax.checkpoints.best import BestWeights, best_folder
from sigma_jax.checkpoints.manager import Checkpointer
from sigma_jax.checkpoints.storage import check_writable
from sigma_jax.data.metadata import read_json, write_json
from sigma_jax.evals.protocol import Evaluator
from sigma_jax.runtime.checkout import commit
from sigma_jax.runtime.errors import UserError
from sigma_jax.runtime.logs import telling
from sigma_jax.runtime.sharding import path_of, shard_batch, traced_on
from sigma_jax.train.console import Console, format_metrics
from sigma_jax.train.feed import DeviceBatch, DeviceFeed, HostBatch
from sigma_jax.train.flops import mfu, peak_flops
from sigma_jax.train.health import HealthMonitor, should_stop, write_dump
from sigma_jax.train.metrics import MetricWriter, Throughput
from sigma_jax.train.optimizer import evaluated_params
from sigma_jax.train.plan import RunPlan
from sigma_jax.train.resuming import NOTHING, Allowed, Facts, check_same_run
from sigma_jax.train.setup import Run
from sigma_jax.train.state import TrainState
from sigma_jax.train.step import loss_and_gradient

OPTIONAL = ("av", "decord", "torchcodec")  # video decoders; not needed for shards of JPEG frames
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
RESTART_CODE = 75  # exit status after a preemption: start the same command again


class Preempted(UserError, RuntimeError):
    """The process was asked to stop (SIGTERM or a preemption notice); the message says which step is saved."""


class NonFinite(UserError, RuntimeError):
    """Too many steps in a row without a finite loss and gradient."""


def train(run: Run, *, command: Sequence[str] = (), allowed: Allowed = NOTHING) -> TrainState:
    """Trains to the end of the plan, from the newest checkpoint of the run or from its first state.

    Args:
      run: from `setup.build`.
      command: the user's command line, written to the workdir.
      allowed: what may have changed since the checkpoint.

    Returns:
      The state after the last step.

    Raises:
      Preempted: asked to stop.
      NonFinite: too many steps in a row without a finite loss and gradient.
      NotWritable, SaveFailed: checkpoints cannot be written.
      ChangedConfig, ChangedData, NoStepsLeft: the checkpoint is of another run (train/resuming.py).
    """
    leader = jax.process_index() == 0
    check_writable(run.checkpoint_dir)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(open_checkpoints(run)))
        stack.callback(run.loader.close)
        checkpoints.catch_stops()
        state = restore_or_init(run, checkpoints, allowed)
        if leader:
            write_run_files(run, command)
        first = int(state.step)
        writer = stack.enter_context(contextlib.closing(MetricWriter(run.workdir, active=leader, resume_step=first)))
        console = stack.enter_context(contextlib.closing(Console(run.plan.total_steps, first, active=leader)))
        logger = _Logger(run, writer, console)
        feed = DeviceFeed(run.loader, lambda batch: to_devices(run, batch), first, run.plan.total_steps)
        for step in range(first, run.plan.total_steps):
            _save(run, checkpoints, feed, state, logger)
            with logger.throughput.waiting():
                host_batch, batch = next(feed)
            state, metrics = run.program.step(state, run.frozen, batch)
            logger.after(step + 1, metrics, host_batch, state)
            del host_batch, batch  # their memory goes back to the readers
            if step + 1 < run.plan.total_steps:
                logger.measure(step + 1, state)
        save_last(run, checkpoints, feed, state, logger)
        logger.measure_last(state)
    return state


def open_checkpoints(run: Run, read_only: bool = False) -> Checkpointer:
    """The run's checkpoints, usually in workdir/checkpoints. `read_only`: while another process may write them."""
    return Checkpointer(
        run.checkpoint_dir,
        keep_last=run.settings.checkpoint.keep_last,
        save_every_steps=run.plan.save_every_steps,
        keep_every_steps=run.plan.keep_every_steps or None,
        on_saved=note_progress,
        read_only=read_only,
    )


def note_progress(step: int) -> None:
    """Writes the saved step to $SIGMA_PROGRESS_FILE, where launch/keep_running.sh looks for progress between starts."""
    if os.environ.get("SIGMA_PROGRESS_FILE"):
        Path(os.environ["SIGMA_PROGRESS_FILE"]).write_text(f"{step}\n")


def restore_or_init(run: Run, checkpoints: Checkpointer, allowed: Allowed) -> TrainState:
    """The state of the newest checkpoint, with the loader moved to its position; without a checkpoint a first state."""
    latest = checkpoints.latest_step()
    if latest is None:
        with telling("making the first parameters"):
            return run.init_state()
    facts = Facts(run.recorded, run.plan, run.data)
    check_same_run(facts, latest, checkpoints.meta(latest), str(run.checkpoint_dir), allowed)
    with telling(f"reading step {latest} from {run.checkpoint_dir}"):
        state, data_state, _ = checkpoints.restore(latest, run.program.abstract_state)
    run.loader.restore(data_state)
    logging.info("resumed from step %d of %s", latest, run.checkpoint_dir)
    return state


def to_devices(run: Run, host_batch: HostBatch) -> DeviceBatch:
    """The entries of this process's batch that the task uses (`Task.batch_keys`), as global arrays."""
    return shard_batch(run.task.mesh, {name: host_batch[name] for name in run.task.batch_keys})


def _save(run: Run, checkpoints: Checkpointer, feed: DeviceFeed, state: TrainState, logger: "_Logger") -> None:
    """Saves a checkpoint if one is due; on a preemption notice saves, waits until it is written and raises Preempted.

    The metrics up to this step are written first, because a run that resumes here does not compute them again.
    """
    step = feed.step
    checkpoints.failure()  # logs a save that failed in the background
    stop = checkpoints.reached_preemption(step)
    if stop or checkpoints.should_save(step):
        logger.flush(state)
        checkpoints.save(step, state, data_state=feed.state(), meta=run.meta(), force=stop)
    if stop:
        checkpoints.wait()
        if step != checkpoints.last_good:
            raise Preempted(
                f"asked to stop, but step {step} is not saved (see above); the same command goes on from "
                f"{checkpoints.last_good}"
            )
        raise Preempted(f"asked to stop: step {step} is saved; the same command goes on from there")


def save_last(run: Run, checkpoints: Checkpointer, feed: DeviceFeed, state: TrainState, logger: "_Logger") -> None:
    """Saves the last step before the evaluators run: a test is the longest and most fragile part of a finetuning.

    After it, a signal ends the process at once, since nothing can be lost.
    """
    logger.flush(state)
    checkpoints.save(feed.step, state, data_state=feed.state(), meta=run.meta(), force=True)
    checkpoints.require(feed.step)
    if checkpoints.reached_preemption(feed.step):
        raise Preempted("asked to stop: the last step is saved; the same command makes the last measurements")
    checkpoints.release_stops()


class _Logger:
    """Writes metrics one step late, so that the device has work while the host reads them; runs the evaluators."""

    def __init__(self, run: Run, writer: MetricWriter, console: Console):
        self.run, self.writer, self.console = run, writer, console
        self.throughput = Throughput()
        self._devices = list(run.task.mesh.devices.flat)
        has_peak = peak_flops(self._devices[0].device_kind) is not None
        self._flops_per_clip = sum(run.task.flops().values()) if has_peak else 0.0
        self._best = {
            evaluator.best_by: BestWeights(best_folder(run.checkpoint_dir), evaluator.best_by, run.meta)
            for evaluator in run.evaluators
            if evaluator.best_by is not None
        }
        self.health = HealthMonitor(run.plan.num_prototypes or None)
        self._pending: tuple[int, Any, HostBatch] | None = None
        self._steps = 0

    def after(self, step: int, metrics: dict[str, jax.Array], host_batch: HostBatch, state: TrainState):
        """Called when `step` was dispatched."""
        self._steps += 1
        if self._steps == 1:  # its time holds compilation and the wait for the first batch
            self.throughput.reset()
        else:
            self.throughput.count(self.run.plan.batch_size)
        self.console.advance(step)
        self.flush(state)
        if step % self.run.plan.log_every_steps == 0 or step in (1, self.run.plan.total_steps):
            self._pending = step, metrics, host_batch

    def flush(self, state: TrainState) -> None:
        """Writes the metrics of the last log step; raises NonFinite after `max_nonfinite_run` non-finite steps."""
        if self._pending is None:
            return
        step, metrics, host_batch = self._pending
        self._pending = None
        numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
        numbers["bad_videos"] = self.run.loader.stats()["bad_videos"]
        numbers |= self.throughput.read() if step > 1 else {}
        if self._flops_per_clip and "clips_per_s" in numbers:
            numbers["mfu"] = mfu(self._flops_per_clip, numbers["clips_per_s"], self._devices)
        self.throughput.reset()
        self.writer.write(step, numbers)
        self.console.show(step, numbers, step / self.run.plan.steps_per_epoch)
        for warning in self.health.check(step, numbers):
            self.console.say(warning, warning=True)
            self.writer.warn(step, warning)
        if should_stop(int(numbers["nonfinite_run"]), self.run.settings.max_nonfinite_run):
            raise NonFinite(self._dump(step, host_batch, state))

    def measure(self, step: int, state: TrainState) -> None:
        """Runs the evaluators due at `step` and writes their numbers; their time does not count in clips/s."""
        due = [evaluator for evaluator in self.run.evaluators if is_due(evaluator, step, self.run.plan)]
        if not due:
            return
        for evaluator in due:
            self._run(evaluator, step, state)
        self.throughput.reset()

    def measure_last(self, state: TrainState) -> None:
        """Runs every evaluator after the last step, except those that an earlier start of the run has run there."""
        step, done = self.run.plan.total_steps, LastMeasurements(self.run.workdir / "measured.json")
        for evaluator in self.run.evaluators:
            if not done.holds(evaluator.name, step):
                logging.info("%s after the last step, which is saved", evaluator.name)
                self._run(evaluator, step, state)
                done.add(evaluator.name, step)

    def _run(self, evaluator: Evaluator, step: int, state: TrainState) -> None:
        params = evaluated_params(state.params, state.opt_state)
        numbers = dict(evaluator.run(params, step))
        if evaluator.best_by in numbers:
            self._best[evaluator.best_by].offer(step, params, numbers[evaluator.best_by])
        self.writer.write(step, numbers)
        self.console.say(f"{evaluator.name} at step {step}: {format_metrics(numbers)}")

    def _dump(self, step: int, host_batch: HostBatch, state: TrainState) -> str:
        """Writes the step's records and gradient norms to a file; returns the message of NonFinite."""
        keys = self.run.loader.keys(host_batch)
        norms = module_norms(self.run, state, to_devices(self.run, host_batch))
        _, sentence = write_dump(self.run.workdir, step, keys, norms)
        return (
            f"{sentence}. {self.run.settings.max_nonfinite_run} steps in a row were skipped: "
            "lower optim.base_lr, raise objective.epsilon, or try --config.compute.dtype=float32"
        )


class LastMeasurements:
    """Which evaluators have run after the last step, kept in a file that process 0 reads and writes."""

    def __init__(self, path: Path):
        self._path = path
        self._done: dict[str, int] = {}
        if jax.process_index() == 0 and path.exists():
            self._done = read_json(path)

    def holds(self, name: str, step: int) -> bool:
        """Whether `name` has measured the parameters of this step; all processes call it together."""
        mine = self._done.get(name) == step
        return mine if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.int32(mine)))

    def add(self, name: str, step: int) -> None:
        """Notes that `name` has measured the parameters of this step; call it when its numbers are written."""
        self._done[name] = step
        if jax.process_index() == 0:
            write_json(self._path, self._done)


def is_due(evaluator: Evaluator, step: int, plan: RunPlan) -> bool:
    """Whether an evaluator's schedule `every` says that it runs after `step` updates; never for one without."""
    every = evaluator.every.in_steps(plan.steps_per_epoch, plan.total_steps) if evaluator.every else 0
    return every > 0 and step % every == 0


def module_norms(run: Run, state: TrainState, batch: dict[str, jax.Array]) -> dict[str, float]:
    """Norm of the gradient of each module ('encoder/blocks'), in the order of the forward pass."""

    def gradient(params, frozen, batch, step):
        when = (run.settings.seed, step, run.plan.accumulation)
        return loss_and_gradient(run.task, run.task.constrain(params), frozen, batch, when, {})[1]

    squares: dict[str, float] = {}
    gradients = jax.jit(traced_on(run.task.mesh, gradient))(state.params, run.frozen, batch, state.step)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        module = "/".join(path_of(path).split("/")[:2])
        squares[module] = squares.get(module, 0.0) + float(jax.numpy.sum(jax.numpy.square(leaf)))
    position = {name: i for i, name in enumerate(("encoder", "decoder", "projection", "prototypes"))}
    ordered = sorted(squares, key=lambda module: position.get(module.split("/")[0], len(position)))
    return {module: squares[module] ** 0.5 for module in ordered}


def versions() -> dict[str, str]:
    """Versions of this package (with its commit), of Python and of the libraries that a run depends on, and JAX's
    platform."""
    found = {"sigma_jax": __version__, "commit": commit(), "python": platform.python_version()}
    found |= {"platform": jax.default_backend()}
    optional = [name for name in OPTIONAL if importlib.util.find_spec(name)]
    return found | {name: metadata.version(name) for name in (*PACKAGES, *optional)}


def write_run_files(run: Run, command: Sequence[str]) -> None:
    """Writes config.json, plan.json, plan.txt, versions.json and command.txt into the workdir."""
    (run.workdir / "config.json").write_text(json.dumps(run.recorded, indent=2, sort_keys=True) + "\n")
    (run.workdir / "plan.json").write_text(json.dumps(dataclasses.asdict(run.plan), indent=2) + "\n")
    (run.workdir / "plan.txt").write_text("\n".join(run.plan.describe()) + "\n")
    (run.workdir / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n")
    (run.workdir / "command.txt").write_text(shlex.join(command) + "\n")
