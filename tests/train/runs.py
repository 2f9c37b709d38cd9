"""Small real runs of sigma_jax.main in processes of their own, for the tests of several processes and of restarts."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from sigma_jax import main
from sigma_jax.checkpoints.manager import _read_json, find_checkpoint
from sigma_jax.datasets.synthetic import write_videos
from sigma_jax.tools import prepare

ROOT = Path(__file__).resolve().parents[2]
STARTED: list[subprocess.Popen] = []
TINY = (
    "model.image_size=16", "model.num_frames=4", "batch_size=16", "max_batch_per_device=4",
    "objective.num_prototypes=16",    "objective.projection_widths=32,32",
    "log_every_steps=1", "checkpoint.keep_last=3", "data.cache_decoded=false",
)  # fmt: skip


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def make_data(folder: Path) -> Path:
    """Shards of a few tiny videos."""
    write_videos(folder / "videos", seed=0, start=0, count=48, size=16)
    code = prepare.main([f"--videos={folder / 'videos'}", f"--out={folder / 'shards'}", "--workers=0"])
    assert code == 0
    return folder / "shards"


def command_line(
    workdir: Path,
    data: Path,
    *overrides: str,
    flags: tuple[str, ...] = (),
    config: str = "configs/demo.py",
    shrink: tuple[str, ...] = TINY,
) -> list[str]:
    """The flags of a small run of sigma_jax.main."""
    values = [f"--config.{override}" for override in (*shrink, *overrides)]
    return [f"--config={config}", f"--workdir={workdir}", f"--data_dir={data}", *flags, *values]


def run_here(workdir: Path, data: Path, *overrides: str, **how) -> None:
    """A run in this process, on its eight devices: the reference that runs of other processes are compared with."""
    assert main.main(["sigma_jax.main", *command_line(workdir, data, *overrides, **how)]) == 0


def start(
    workdir: Path,
    data: Path,
    *overrides: str,
    devices: int = 1,
    flags: tuple[str, ...] = (),
    config: str = "configs/demo.py",
    shrink: tuple[str, ...] = TINY,
    under: tuple[str, ...] = (),
):
    """A training process with simulated CPU devices; compiled in a hurry, deaf to nothing. `under`: what starts it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PJRT_NPROC")}
    quick = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]  # as in conftest.py
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "PJRT_NPROC": "16",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": " ".join(quick),
        "PYTHONFAULTHANDLER": "1",  # see `stop_with_stacks`
    }
    words = command_line(workdir, data, *overrides, flags=flags, config=config, shrink=shrink)
    command = [*under, sys.executable, "-m", "sigma_jax.main", *words]
    log = open(f"{workdir}.{len(list(workdir.parent.glob('*.log')))}.log", "w+")  # noqa: SIM115
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    process.log = log
    STARTED.append(process)
    return process


def finish(process, seconds: float = 240) -> tuple[int, str]:
    """(exit code, everything it wrote); stopped after `seconds`."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        stop_with_stacks(process)
        code = -1
    process.log.seek(0)
    text = process.log.read()
    process.log.close()
    return code, text


def stop_with_stacks(process) -> None:
    """Ends a process that hangs; its log then says where each thread was."""
    process.send_signal(signal.SIGABRT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _end_group(process)


def stop_all() -> None:
    """Ends what a failed test left running."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            _end_group(process)
            process.wait()


def _end_group(process) -> None:
    """The process and its children: launch/keep_running.sh would start another one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def outcome(workdir: Path) -> tuple[dict, dict, dict[int, float]]:
    """What two equal runs share: data position and hash of every array of the newest checkpoint, and the losses."""
    step = find_checkpoint(workdir)
    position, hashes = (_read_json(step, item) for item in ("data", "content_hash"))
    return position, hashes, losses(workdir)


def losses(workdir: Path) -> dict[int, float]:
    """Step -> loss, of metrics.jsonl."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}
