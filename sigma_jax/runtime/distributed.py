"""Joining and leaving the processes of one run, with messages that name the process or address that is missing.

One process per host on TPU pods, one per node or per GPU elsewhere. `connect` finds the others by flags
(--coordinator --num_processes --process_id), or by what Slurm, Open MPI or the TPU runtime put into the environment.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from absl import flags, logging
from jax.experimental import multihost_utils

from sigma_jax.runtime.config import diff_configs
from sigma_jax.runtime.errors import InvalidValue, UserError
from sigma_jax.runtime.folder_lock import FolderInUse, FolderLock

T = TypeVar("T")
LOST_CODE = 76  # exit status when another process of the run was lost: start the same command again
ALONE_CODE = 69  # exit status when the processes did not connect: a wrong address, or a process that has not started
# How long a finished process waits for the others before it exits: process 0 draws the report alone. A process that
# dies meanwhile is noticed after `peer_seconds` all the same.
LEAVE_SECONDS = 300
# Status codes of a failed step: another process may have been lost, and the cause lies in this process.
LOSSES = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION")
OWN_FAILURES = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")


class CannotConnect(UserError, RuntimeError):
    """The processes of the run did not find each other."""


class Meeting(NamedTuple):
    """How the processes find each other; fields are None where JAX detects them itself (Slurm, TPU pod).

    Attributes:
      coordinator: host:port of process 0.
      num_processes: processes of the run.
      process_id: this process's index, from 0.
    """

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of a command that may run as several processes."""
    text, number = flags.DEFINE_string, flags.DEFINE_integer
    text("coordinator", None, "host:port of process 0, in a run of several processes.", flag_values=values)
    number("num_processes", None, "Number of processes of this run.", flag_values=values)
    number("process_id", None, "This process's number, from 0.", flag_values=values)
    when = ["auto", "on", "off"]
    helps = "Join the other processes of a job or pod; auto: where Slurm, Open MPI or a TPU pod started several."
    flags.DEFINE_enum("distributed", "auto", when, helps, flag_values=values)
    helps = "Seconds to wait for the other processes at the start."
    number("connect_seconds", 60, helps, lower_bound=1, flag_values=values)
    helps = "Seconds without a heartbeat after which another process counts as lost."
    number("peer_seconds", 60, helps, lower_bound=5, flag_values=values)


def meeting_from_flags(values: flags.FlagValues = flags.FLAGS) -> Meeting | None:
    """The Meeting that flags and environment describe; None for a run of one process.

    Raises:
      InvalidValue: only some of the three flags are given, or their values do not fit together.
    """
    given = Meeting(values.coordinator, values.num_processes, values.process_id)
    if any(part is not None for part in given):
        missing = [f"--{name}" for name, part in given._asdict().items() if part is None]
        if missing:
            raise InvalidValue(
                f"{', '.join(missing)} missing: give --coordinator, --num_processes and --process_id together"
            )
        if not 0 <= given.process_id < given.num_processes:
            raise InvalidValue(
                f"--process_id={given.process_id} with --num_processes={given.num_processes}: "
                f"processes are numbered 0 to {given.num_processes - 1}"
            )
        host, _, port = given.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise InvalidValue(f"--coordinator={given.coordinator}: expected host:port, such as node0:12355")
        return given if given.num_processes > 1 else None
    if values.distributed == "on" or (values.distributed == "auto" and started_as_many(os.environ)):
        return Meeting(None, None, None)
    return None


def started_as_many(environment: Mapping[str, str]) -> bool:
    """Whether a launcher (Slurm, Open MPI, a TPU pod) has started this process as one of several."""
    counts = [environment.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")]
    in_slurm_step = "SLURM_PROCID" in environment or "OMPI_COMM_WORLD_RANK" in environment
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return (in_slurm_step and any(n.isdigit() and int(n) > 1 for n in counts)) or len(hosts) > 1


def local_devices(meeting: Meeting, environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of this process: [] for all visible ones, None for JAX's rule that process i of a node uses GPU i.

    JAX by itself applies that rule wherever it finds Slurm or Open MPI. It is wrong with one process per node, and
    where a process sees only its own GPU.
    """
    if environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None  # the user's own choice
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
    most = max(int(count) for count in re.sub(r"\(x\d+\)", "", per_node).split(","))  # of "8(x3),7"
    sees_one = environment.get("CUDA_VISIBLE_DEVICES", "").count(",") == 0 and "CUDA_VISIBLE_DEVICES" in environment
    return [] if meeting.coordinator is not None or most == 1 or sees_one else None


def place_in(environment: Mapping[str, str]) -> str:
    """This process's number and the number of processes, if the launcher gives them, for messages; "" otherwise."""
    for index, count in (("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")):
        if index in environment:
            return f"process {environment[index]} of {environment.get(count, '?')}"
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    return f"host {environment.get('TPU_WORKER_ID', '?')} of {len(hosts)}" if hosts else ""


def connect(meeting: Meeting | None, connect_seconds: int = 60, peer_seconds: int = 60) -> str:
    """Connects to the other processes, before any device is used; returns the sentence of `preflight`.

    Args:
      meeting: None for a run of one process.
      connect_seconds: how long to wait for the others.
      peer_seconds: without a heartbeat for so long a process counts as lost.

    Raises:
      CannotConnect: they did not connect in time; the message says which process waited for which address.
    """
    if meeting is not None:
        if meeting.process_id:
            _wait_for_coordinator(meeting, connect_seconds)
        # At its own time limit JAX aborts the process with a stack trace; this earlier limit ends it with a sentence.
        patience = threading.Timer(connect_seconds, _give_up, (_explain(meeting, connect_seconds, "time is up"),))
        patience.daemon = True
        patience.start()
        try:
            jax.distributed.initialize(
                meeting.coordinator,
                meeting.num_processes,
                meeting.process_id,
                local_devices(meeting, os.environ),
                initialization_timeout=connect_seconds + 30,
                heartbeat_timeout_seconds=peer_seconds,
                shutdown_timeout_seconds=LEAVE_SECONDS,
            )
        except (RuntimeError, ValueError) as error:
            raise CannotConnect(_explain(meeting, connect_seconds, error)) from error
        finally:
            patience.cancel()
    return preflight(meeting, connect_seconds)


def preflight(meeting: Meeting | None, seconds: float) -> str:
    """Counts processes and devices, and tests that all processes can exchange a number; returns a sentence for the log.

    Raises:
      CannotConnect: the counts do not fit together, or the exchange takes longer than `seconds`.
    """
    processes, local, everywhere = jax.process_count(), jax.local_device_count(), jax.device_count()
    if meeting is not None and meeting.num_processes not in (None, processes):
        raise CannotConnect(f"{meeting.num_processes} processes were announced, but {processes} are there")
    if processes > 1:
        counts = _within(seconds, lambda: multihost_utils.process_allgather(jax.numpy.int32(local)))
        if sum(int(n) for n in counts) != everywhere or len({int(n) for n in counts}) > 1:
            raise CannotConnect(
                f"processes have {[int(n) for n in counts]} devices, {everywhere} in all: every process must see the "
                "same number (check CUDA_VISIBLE_DEVICES, or the failed host)"
            )
    return (
        f"{processes} process(es) x {local} local device(s) = {everywhere} device(s), "
        f"{jax.local_devices()[0].device_kind}; this is process {jax.process_index()} on {socket.gethostname()}"
    )


def check_agreement(mine: Mapping[str, Any]) -> None:
    """Checks that all processes were started with the same settings.

    Args:
      mine: the settings of this process, as JSON.

    Raises:
      InvalidValue: in every process, if one of them differs from process 0. The message of a differing process lists
        the differences; that of the others names the processes.
    """
    if jax.process_count() == 1:
        return
    differing = diff_configs(json.loads(_from_first(json.dumps(mine))), mine)
    counts = multihost_utils.process_allgather(np.int32(len(differing)))
    others = [i for i, count in enumerate(counts) if count]
    if differing:
        raise InvalidValue(
            "process 0 was started with other values (its value -> this one's):\n  " + "\n  ".join(differing) + "\n"
            "Start the same command on all hosts, with the same data"
        )
    if others:
        time.sleep(2)  # the differing processes need the coordinator, which may be this one, to report their error
        raise InvalidValue(
            f"process(es) {others} were started with other values than this one; their logs list them. Start the same "
            "command on all hosts, with the same data"
        )


@contextlib.contextmanager
def owned_by_run(folder: str | os.PathLike, on_lost: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of a run's folder inside the block: process 0 locks it, and where hosts do not share the file
    system, each other process locks its own.

    Args:
      folder: must exist, on every host.
      on_lost: see FolderLock.

    Raises:
      FolderInUse: in every process, if the folder is in use on one host.
    """
    lock, refusal, first = FolderLock(folder, on_lost), "", jax.process_index() == 0
    if first:
        refusal = _refusal(lock, "")
    if jax.process_count() > 1:
        told = json.loads(_from_first(json.dumps([lock.owner.token, refusal])))
        refusal = refusal or told[1] or ("" if first else _refusal(lock, told[0]))
        refused = np.flatnonzero(multihost_utils.process_allgather(np.int32(bool(refusal))))
        if refused.size and not refusal:
            refusal = f"{folder} is in use on the host of process {refused[0]}, whose log says by whom"
    try:
        if refusal:
            raise FolderInUse(refusal)
        yield
    finally:
        lock.release()


def _refusal(lock: FolderLock, friend: str) -> str:
    """Why the folder cannot be locked; "" if it was locked, or is locked by the process whose token is `friend`."""
    try:
        lock.take(friend)
    except (FolderInUse, OSError) as error:
        return str(error)
    return ""


def _from_first(text: str) -> str:
    """Process 0's text."""
    data = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    data = np.resize(data, length)  # equal shapes; only process 0's values count
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(data), np.uint8)).decode()


def _within(seconds: float, function: Callable[[], T]) -> T:
    """The result of `function()`, run in a thread; its exceptions are raised here.

    Raises:
      CannotConnect: it takes longer than `seconds`; the thread is abandoned.
    """
    result: futures.Future[T] = futures.Future()

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again below
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return result.result(seconds)
    except futures.TimeoutError as error:
        if result.done():  # the function itself raised TimeoutError
            raise
        raise CannotConnect(
            f"all processes are there, but exchanging one number between them did not work within {seconds:g} s: "
            "check that the hosts reach each other on all ports (firewall, NCCL_SOCKET_IFNAME)"
        ) from error


def _give_up(sentence: str) -> None:
    logging.error("CannotConnect: %s", sentence)
    logging.flush()
    os._exit(ALONE_CODE)


def _wait_for_coordinator(meeting: Meeting, seconds: float) -> None:
    """Waits until process 0 listens, so that a wrong address is reported as such."""
    host, _, port = meeting.coordinator.rpartition(":")
    deadline, reason = time.monotonic() + seconds, "no attempt"
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            reason = str(error)
            time.sleep(0.5)
    raise CannotConnect(_explain(meeting, seconds, reason))


def _explain(meeting: Meeting, seconds: float, reason: Exception | str) -> str:
    first = str(reason).strip().splitlines()[0][:300] if str(reason).strip() else type(reason).__name__
    if meeting.coordinator is None:
        who = f"{place_in(os.environ)} waited".lstrip()
        return (
            f"{who} {seconds:g} s for the others ({first}). On a TPU pod start the same command on every host; under "
            "Slurm start it with srun; elsewhere give --coordinator, --num_processes and --process_id"
        )
    if meeting.process_id:
        return (
            f"process {meeting.process_id} did not reach process 0 at {meeting.coordinator} within {seconds:g} s "
            f"({first}): is it running, is the address right, is the port open?"
        )
    return (
        f"process 0 waited {seconds:g} s at {meeting.coordinator} for {meeting.num_processes} processes ({first}): "
        "one was not started, died, has another --num_processes, or cannot reach this address"
    )


def lost_another(error: Exception) -> bool:
    """Whether a step may have failed because another process was lost; the same command is then started again.

    If no collective is running when a process is lost, JAX itself ends the others (SIGABRT, status 134) after
    `peer_seconds`.

    Args:
      error: a JaxRuntimeError, or the ValueError that JAX raises in its place where the step fails as it is started.
    """
    if jax.process_count() == 1 or any(status in str(error) for status in OWN_FAILURES):
        return False
    return isinstance(error, jax.errors.JaxRuntimeError) or str(error).partition(":")[0] in LOSSES


def leave(code: int) -> None:
    """Ends a failed process of a run of several at once: an orderly exit would wait for the others, and they for it."""
    if jax.distributed.is_initialized() and code:
        logging.error("process %d stops with code %d; the others stop when they notice", jax.process_index(), code)
        logging.flush()
        os._exit(code)
