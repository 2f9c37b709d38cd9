"""How processes meet: flags, launchers, who waits for whom and for how long, and what is said when one is missing."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import pytest

from sigma_jax.runtime import distributed
from tests.train.runs import ROOT, free_port


def flag_values(**given):
    return SimpleNamespace(
        **{"coordinator": None, "num_processes": None, "process_id": None, "distributed": "off"} | given
    )


def test_what_an_exchange_raises_is_what_is_told():
    with pytest.raises(ZeroDivisionError):
        distributed._within(60, lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="its own"):
        distributed._within(60, lambda: (_ for _ in ()).throw(TimeoutError("its own")))
    with pytest.raises(distributed.CannotConnect, match="did not work within 0.01 s"):
        distributed._within(0.01, threading.Event().wait)
    assert distributed._within(60, lambda: 7) == 7


def test_a_step_that_failed_because_another_process_is_gone_is_told_from_mistakes(monkeypatch):
    gloo = "Gloo all-reduce failed: Read error [127.0.0.1]:37020: Connection reset by peer"
    step, lost = jax.errors.JaxRuntimeError, distributed.lost_another
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert lost(step(gloo)) and lost(ValueError(f"UNKNOWN: {gloo}"))
    for own in (step("RESOURCE_EXHAUSTED: out of memory"), ValueError("INVALID_ARGUMENT: x"), ValueError("size=3")):
        assert not lost(own)
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert not lost(step(gloo)) and not lost(ValueError(f"UNKNOWN: {gloo}"))


def test_flags_that_cannot_be_are_errors():
    meeting = distributed.meeting_from_flags
    assert meeting(flag_values()) is None
    assert meeting(flag_values(coordinator="a:1", num_processes=1, process_id=0)) is None
    assert meeting(flag_values(coordinator="a:1", num_processes=2, process_id=1)).process_id == 1
    assert meeting(flag_values(distributed="on")) == (None, None, None)
    with pytest.raises(ValueError, match="--process_id missing"):
        meeting(flag_values(coordinator="a:1", num_processes=2))
    with pytest.raises(ValueError, match="--process_id=2 with --num_processes=2.*numbered 0 to 1"):
        meeting(flag_values(coordinator="a:1", num_processes=2, process_id=2))
    with pytest.raises(ValueError, match="expected host:port"):
        meeting(flag_values(coordinator="node0", num_processes=2, process_id=1))


def test_launchers_are_recognised():
    assert distributed.started_as_many({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"})
    assert distributed.started_as_many({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"})
    assert distributed.started_as_many({"TPU_WORKER_HOSTNAMES": "a,b"})
    for single in (
        {},
        {"SLURM_NTASKS": "4"},
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"TPU_WORKER_HOSTNAMES": "a"},
    ):
        assert not distributed.started_as_many(single)


def test_a_process_takes_all_gpus_of_its_node_or_its_own():
    """JAX's own rule under Slurm is one GPU per process, whatever the number of processes on a node."""
    found = distributed.Meeting(None, None, None)

    def under_slurm(per_node: str, **more):
        return distributed.local_devices(found, {"SLURM_STEP_TASKS_PER_NODE": per_node, "SLURM_LOCALID": "0", **more})

    assert under_slurm("1(x4)") == [] and under_slurm("1") == []
    assert under_slurm("8(x4)") is under_slurm("1(x3),2") is None
    assert under_slurm("8(x4)", CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7") is None
    assert under_slurm("8(x4)", CUDA_VISIBLE_DEVICES="3") == []
    assert under_slurm("1(x4)", JAX_LOCAL_DEVICE_IDS="0,1") is None
    assert distributed.local_devices(found, {"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}) is None
    assert distributed.local_devices(found, {"TPU_WORKER_HOSTNAMES": "a,b"}) == []
    given = distributed.Meeting("node0:12355", 4, 0)
    assert distributed.local_devices(given, {"SLURM_STEP_TASKS_PER_NODE": "8(x4)"}) == []


CONNECT = """
import sys
from sigma_jax.runtime import distributed as d
print(d.connect(d.Meeting(None, None, None), connect_seconds=int(sys.argv[1])))
"""


def slurm_step(count: int, nodes: int, seconds: int, started: int) -> list[tuple[int, str, str]]:
    """(exit status, output, errors) of the first `started` of `count` processes with the variables of an srun here."""
    with socket.socket() as s:  # JAX takes the port from the job's number
        job = next(n for n in range(1, 4096) if s.connect_ex(("localhost", 61440 + n)))
    step = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count)}
    step |= {"SLURM_STEP_NUM_NODES": str(nodes), "SLURM_STEP_TASKS_PER_NODE": f"{count // nodes}(x{nodes})"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONNECT, str(seconds)],
            env=os.environ | step | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i % (count // nodes))}
            | {"JAX_LOGGING_LEVEL": "INFO"},
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(started)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


@pytest.mark.parametrize("nodes,restricted", [(2, [[], []]), (1, [["0"], ["1"]])])
def test_processes_of_a_slurm_step_meet(nodes, restricted):
    ended = slurm_step(count=2, nodes=nodes, seconds=60, started=2)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert all("2 process(es) x" in out for _, out, _ in ended)
    said = [re.findall(r"initialized with visible devices: (\S+)", errors) for _, _, errors in ended]  # by JAX
    assert said == restricted, ended


def test_a_slurm_process_that_never_arrives_is_named_in_time():
    ((code, _, errors),) = slurm_step(count=3, nodes=3, seconds=3, started=1)
    assert code == distributed.ALONE_CODE and "process 0 of 3 waited 3 s for the others (time is up)" in errors


def test_wrong_coordinator_is_named_in_time():
    meeting = distributed.Meeting(f"localhost:{free_port()}", 2, 1)
    with pytest.raises(
        distributed.CannotConnect, match=r"process 1 did not reach process 0 at localhost:\d+ within 1 s"
    ):
        distributed.connect(meeting, connect_seconds=1)


def test_a_host_that_never_arrives_is_named_in_time():
    code = (
        "from sigma_jax.runtime import distributed as d\n"
        f"d.connect(d.Meeting('localhost:{free_port()}', 2, 0), connect_seconds=3)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == distributed.ALONE_CODE and time.monotonic() - started < 60
    assert "process 0 waited 3 s" in done.stderr and "for 2 processes" in done.stderr, done.stderr[-2000:]


def test_a_process_that_is_done_waits_for_one_that_draws():
    """Longer than a silent process is waited for: the first one alone writes the report."""
    code = (
        "import sys, time\n"
        "from sigma_jax.runtime import distributed as d\n"
        f"d.connect(d.Meeting('localhost:{free_port()}', 2, int(sys.argv[1])), 60, peer_seconds=5)\n"
        "time.sleep(0 if int(sys.argv[1]) else 8)\n"
    )
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen([*command, str(i)], cwd=ROOT, stderr=subprocess.PIPE) for i in range(2)]
    said = [process.communicate(timeout=120)[1][-2000:] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
