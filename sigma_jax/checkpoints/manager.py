"""Checkpoints of a run: asynchronous, atomic, restorable onto any mesh, with a hash of every array.

One folder per step, `checkpoints/1200/`, holds `state` (arrays, Orbax), `data` (position of the input pipeline), `meta`
(such as config and versions; the caller decides) and `content_hash` (see content_hash.py), the last three as JSON. A
folder gets its number as name only when it is complete, so a save that was killed is never taken for a checkpoint.
Paths may be relative, or gs:// and s3:// (storage.py).
"""

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from sigma_jax.checkpoints import storage
from sigma_jax.checkpoints.content_hash import changed_leaves, content_hash, named_leaves
from sigma_jax.checkpoints.storage import absolute, storage_errors
from sigma_jax.runtime import signals
from sigma_jax.runtime.errors import InvalidValue, UserError
from sigma_jax.runtime.trees import Tree

# How tensorstore says that a file system (other than with ENOENT, 2) or a bucket refused to read.
REFUSED = re.compile(r"os_error_code='(?!2')|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED")
# Orbax cuts arrays that several devices hold alike into slices, one for each device to write, with a program for each
# shape and slice: 130 in the first save of a small model on eight devices. Slices below this size are not worth one.
_SLICE_BYTES = 2**16
ocp.type_handlers.get_type_handler(jax.Array)._min_slice_bytes_for_replica_parallel = _SLICE_BYTES  # no public setting


class CheckpointError(UserError, ValueError):
    """A checkpoint does not fit the program, is damaged, or does not exist."""


class SaveFailed(UserError, RuntimeError):
    """The last step, or several checkpoints in a row, could not be saved."""


class Checkpointer:
    """Saves and restores the state of one run below `directory` (usually `workdir/checkpoints`).

    A failed save is reported by `failure()` or the next `save`, and leaves the earlier checkpoints as they are. All
    processes of a run must make the same calls.

    Args:
      directory: folder or bucket of the checkpoints.
      keep_last: number of the latest checkpoints that are kept.
      save_every_steps: interval of checkpoints.
      keep_every_steps: checkpoints at multiples of it are kept for good; None: none.
      max_save_failures: failed saves in a row after which SaveFailed is raised.
      on_saved: called with the step once its checkpoint is complete.
      read_only: for reading only; unfinished saves of another program in the folder are left alone.
    """

    def __init__(
        self,
        directory: str | epath.Path,
        *,
        keep_last: int,
        save_every_steps: int,
        keep_every_steps: int | None = None,
        max_save_failures: int = 3,
        on_saved: Callable[[int], None] = lambda step: None,
        read_only: bool = False,
    ):
        for name, value in (("keep_last", keep_last), ("save_every_steps", save_every_steps)):
            if value < 1:
                raise InvalidValue(f"{name} is {value}, expected at least 1")
        kept = [policies.LatestN(keep_last)] + ([policies.EveryNSteps(keep_every_steps)] if keep_every_steps else [])
        due = [policies.FixedIntervalPolicy(save_every_steps), policies.PreemptionCheckpointingPolicy()]
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=policies.AnySavePolicy(due),
            preservation_policy=policies.AnyPreservationPolicy(kept),
            read_only=read_only,
        )
        self.directory = absolute(directory)
        if not read_only and jax.process_index() == 0:
            storage.remove_unfinished(self.directory)
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._max_failures, self._on_saved = max_save_failures, on_saved
        self._failures, self._reason = 0, ""  # failed saves since the last good one, and why the last one failed
        self._stale = False  # whether Orbax may still list a step that could not be saved
        self.last_good = self._manager.latest_step()  # the newest step that is saved
        self._pending: int | None = None
        self._notice = signals.Notice(logging.warning)
        self._closing = contextlib.ExitStack()

    def should_save(self, step: int) -> bool:
        """True when a save is due at `step` (steps done): the interval, or a preemption notice."""
        return step > 0 and (self._manager.should_save(step) or (self._notice.came and step not in self.all_steps()))

    def save(self, step: int, state: Tree, *, data_state: dict, meta: dict, force: bool = False) -> bool:
        """Starts saving a step and returns once the arrays are copied to the host; writing goes on in the background.

        Args:
          step: steps done.
          state: pytree of jax.Arrays, which may be donated afterwards.
          data_state: position of the input pipeline, JSON.
          meta: JSON.
          force: save also if none is due.

        Returns:
          Whether a save was started: one is due, and the step is not saved yet.

        Raises:
          SaveFailed: too many saves in a row have failed.
        """
        if not force and not self.should_save(step):
            return False
        self.wait()
        json_items = {"data": data_state, "meta": meta, "content_hash": content_hash(state)}
        items = {name: ocp.args.JsonSave(item) for name, item in json_items.items()}
        try:
            if self._stale:
                self._reload()
            if step in self.all_steps():
                return False
            _check_room(self.directory, state)
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), **items), force=True)
        except storage_errors() as error:
            self._report(step, error)
            self._stop_if_hopeless()
            return False
        self._pending = step
        return True

    def failure(self) -> str | None:
        """A sentence (also logged) if the save in the background has failed. It does not wait: call it every step."""
        if self._pending is None or self._manager.is_saving_in_progress():
            return None
        return self._collect()

    def wait(self) -> None:
        """Wait for the save in the background. Raises SaveFailed after too many failures in a row."""
        self._collect()
        self._stop_if_hopeless()

    def require(self, step: int) -> None:
        """Waits until `step`, the last one of a run, is saved; raises SaveFailed if it is not."""
        self.wait()
        if step != self.last_good:
            raise SaveFailed(
                f"step {step}, the last one, is not saved{self._reason}; last good checkpoint: {self.last_good} in "
                f"{self.directory}. Check free space and permissions, then start the same command again."
            )

    def close(self) -> None:
        """Waits for the save in the background, ends threads and restores signal handlers; the last call."""
        with self._closing:
            try:
                self.wait()
            finally:
                self._manager.close()

    def _collect(self) -> str | None:
        step, self._pending = self._pending, None
        try:
            self._manager.wait_until_finished()
        except storage_errors() as error:
            return self._report(step, error)
        if step is not None:
            self._failures, self._reason, self.last_good = 0, "", step
            self._on_saved(step)
        return None

    def _reload(self) -> None:
        self._manager.reload()
        self._stale = False

    def _report(self, step: int | None, error: Exception) -> str:
        self._failures += 1
        self._stale = True
        if step is not None and jax.process_index() == 0:
            storage.remove_unfinished(self.directory, step)
        with contextlib.suppress(*storage_errors()):  # the next save tries again
            self._reload()
        self._reason = f" ({type(error).__name__}: {str(error).rstrip('.')[:500]})"
        text = (
            f"saving step {step} failed ({self._failures} in a row, the run stops at {self._max_failures})"
            f"{self._reason}. Last good checkpoint: {self.last_good}"
        )
        logging.error("%s", text)
        return text

    def _stop_if_hopeless(self) -> None:
        if self._failures >= self._max_failures:
            raise SaveFailed(
                f"{self._failures} saves in a row failed{self._reason}; last good checkpoint: {self.last_good} in "
                f"{self.directory}. Check free space and permissions, then start the same command again."
            )

    def catch_stops(self) -> None:
        """Makes SIGTERM and Ctrl-C a preemption notice, until close().

        In a run of several processes JAX's preemption service handles SIGTERM and makes all processes agree on one
        step; a Ctrl-C is passed on to it.
        """
        alone = jax.process_count() == 1
        self._notice = signals.Notice(logging.warning, None if alone else _terminate)
        caught = signals.SIGNALS if alone else (signal.SIGINT,)
        self._closing.enter_context(signals.handlers(self._notice.handle, caught))
        if not alone:
            self._closing.callback(signals.take_back, signal.SIGTERM)

    def release_stops(self) -> None:
        """Restores the handlers of SIGTERM and Ctrl-C, once nothing is left to be saved."""
        self._closing.close()

    def reached_preemption(self, step: int) -> bool:
        """True when a preemption notice has arrived: save this step, wait, and exit with the restart code."""
        return self._notice.came or self._manager.reached_preemption(step)

    def all_steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, None when there is none."""
        return self._manager.latest_step()

    def meta(self, step: int) -> dict:
        """The `meta` that was saved with `step`."""
        return _read_json(self.directory / str(step), "meta")

    def restore(self, step: int, abstract_state: Tree) -> tuple[Any, dict, dict]:
        """(state, data_state, meta) of `step`.

        Args:
          step: one of all_steps().
          abstract_state: pytree of jax.ShapeDtypeStruct with the wanted shardings; mesh and device count may differ
            from those of the save.

        Raises:
          CheckpointError: names, shapes or dtypes differ, or an array is damaged.
        """
        if step not in self.all_steps():
            raise CheckpointError(f"no checkpoint of step {step} in {self.directory}, there are {self.all_steps()}")
        path = self.directory / str(step)
        _check_fits(path, abstract_state, partial=False)
        items = {name: ocp.args.JsonRestore() for name in ("data", "meta", "content_hash")}
        target = ocp.args.StandardRestore(abstract_state)
        with _readable(path):
            restored = self._manager.restore(step, args=ocp.args.Composite(state=target, **items))
        _check_content(path, restored.state, restored.content_hash)
        return restored.state, restored.data, restored.meta


def _terminate(number: int) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _check_room(folder: epath.Path, state: Tree) -> None:
    """Raises NotWritable if a checkpoint is clearly larger than the free space of the disk.

    Arrays are stored compressed, so a checkpoint that is only a little too large is tried. All processes of a run raise
    together, because a save that one of them leaves out would block the others.
    """
    shards = [shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards if shard.replica_id == 0]
    needed, free = sum(shard.data.nbytes for shard in shards), storage.free_bytes(folder)
    lacks = free is not None and free < 0.8 * needed
    if jax.process_count() > 1:
        lacks = bool(multihost_utils.process_allgather(np.int32(lacks)).any())
    if lacks:
        have = "" if free is None else f", {free / 2**20:,.1f} MiB are free"
        who = " (one process of the run lacks room)" if jax.process_count() > 1 else ""
        raise storage.NotWritable(f"no room in {folder}: the arrays take {needed / 2**20:,.1f} MiB{have}{who}")


def find_checkpoint(path: str | epath.Path) -> epath.Path:
    """The step folder for `path`: of a workdir or its `checkpoints` folder the newest complete step, or itself.

    Raises:
      CheckpointError: no complete checkpoint; the message says what was found and what to pass.
    """
    path = absolute(path)
    if not path.exists():
        raise CheckpointError(f"no checkpoint: {path} does not exist")
    for folder in (path, path / "checkpoints"):
        steps = _complete_steps(folder)
        if steps:
            return folder / str(steps[-1])
    for folder in (path, *list(path.parents)[:3]):
        if _is_step(folder):
            if folder == path:
                return path
            raise CheckpointError(f"{path} lies inside a checkpoint: pass {folder}")
    found = ", ".join(sorted(p.name for p in path.iterdir())[:12]) if path.is_dir() else "a file"
    raise CheckpointError(
        f"no complete checkpoint in {path} (found: {found or 'nothing'}): pass a workdir, its checkpoints folder, or "
        "one step folder such as workdir/checkpoints/1200"
    )


def read_meta(path: str | epath.Path) -> dict:
    """The `meta` that was saved with the checkpoint at `path` (as in `find_checkpoint`)."""
    return _read_json(find_checkpoint(path), "meta")


def saved_shapes(path: str | epath.Path) -> Tree:
    """Names, shapes and dtypes of the arrays in the checkpoint at `path`, as nested dicts; no array is read."""
    with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
        return reader.metadata(find_checkpoint(path) / "state").tree


def restore_subtree(path: str | epath.Path, abstract: Tree) -> Tree:
    """Only the arrays named in `abstract`, e.g. `{"params": {"encoder": ...}}`, from the checkpoint at `path`.

    `abstract`: nested dicts of jax.ShapeDtypeStruct with shardings; the rest is not read. Raises CheckpointError.
    """
    path = find_checkpoint(path)
    _check_fits(path, abstract, partial=True)
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    arguments = ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args, partial_restore=True)
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader, _readable(path):
        restored = reader.restore(path / "state", args=arguments)
    _check_content(path, restored, _read_json(path, "content_hash"))
    return restored


@contextlib.contextmanager
def _readable(path: epath.Path) -> Iterator[None]:
    """Turns the errors of Orbax and storage about bytes that cannot be unpacked into CheckpointError."""
    try:
        yield
    except Exception as error:
        # Orbax raises plain exceptions for such bytes. JAX's errors, such as too little memory on a device, pass.
        if isinstance(error, jax.errors.JaxRuntimeError) or not (
            type(error) is Exception or isinstance(error, storage_errors())
        ):
            raise
        reason = str(error.__cause__ or error).splitlines()[0][:600]
        if getattr(error, "errno", None) or REFUSED.search(reason):
            verdict, advice = "cannot be read", "Check its permissions, and the disk or the bucket that it lies in."
        else:
            verdict = "is damaged"
            advice = "Restore an earlier step (move this folder away), or copy the checkpoint again."
        raise CheckpointError(f"{path} {verdict} ({reason}). {advice}") from error


def _is_step(path: epath.Path) -> bool:
    return path.name.isdigit() and (path / "state").is_dir() and ocp.utils.is_checkpoint_finalized(path)


def _complete_steps(folder: epath.Path) -> list[int]:
    return sorted(int(p.name) for p in folder.iterdir() if _is_step(p)) if folder.is_dir() else []


def _read_json(path: epath.Path, item: str) -> dict:
    with contextlib.closing(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore(path / item)


def _check_fits(path: epath.Path, abstract: Tree, partial: bool) -> None:
    """Compares names, shapes and dtypes before any array is read; with `partial` the checkpoint may hold more."""
    saved, wanted = (dict(zip(*named_leaves(tree), strict=True)) for tree in (saved_shapes(path), abstract))
    wrong = [f"{name}: not in the checkpoint" for name in wanted.keys() - saved.keys()]
    if not partial:
        wrong += [f"{name}: only in the checkpoint" for name in saved.keys() - wanted.keys()]
    for name in wanted.keys() & saved.keys():
        old, new = ((tuple(leaf.shape), jax.numpy.dtype(leaf.dtype).name) for leaf in (saved[name], wanted[name]))
        if old != new:
            wrong.append(f"{name}: checkpoint has {old[1]}{list(old[0])}, the program expects {new[1]}{list(new[0])}")
    if wrong:
        more = f"\n  ... and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise CheckpointError(
            f"{path} does not fit: {len(wrong)} arrays differ (other model size, target or optimizer?)\n  "
            + "\n  ".join(sorted(wrong, key=lambda line: (not line.startswith("params/"), line))[:10])
            + more
        )


def _check_content(path: epath.Path, tree: Tree, expected: dict) -> None:
    damaged = changed_leaves(tree, expected)
    if damaged:
        raise CheckpointError(
            f"{path} is damaged: {len(damaged)} arrays are not the ones that were saved, the first {damaged[0]}. "
            "Restore an earlier step (move this folder away), or copy the checkpoint again."
        )
