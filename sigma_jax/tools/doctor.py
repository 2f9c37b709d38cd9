"""Checks the machine before a run: versions, devices, mesh, decoders, disk, shared memory, bucket, compilation cache.

    python -m sigma_jax.tools.doctor [--config=configs/k400.py] [--workdir=runs/k400] [--data_dir=DATA/k400]

Flags as for sigma_jax.main, --config.x=y and --platform=cpu too.

One line per check: ok, note, or FAIL with what to do. Exit status: 0 nothing failed, 1 something did.
"""

import dataclasses
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from sigma_jax.checkpoints import storage
from sigma_jax.data.clips import decode_record
from sigma_jax.data.decode import BadVideo
from sigma_jax.data.loader import make_layout, shared_rooms
from sigma_jax.data.records import BadRecord
from sigma_jax.data.source import Source, open_source
from sigma_jax.runtime import config as configs
from sigma_jax.runtime import distributed
from sigma_jax.runtime.command import Command, leave, parse_flags
from sigma_jax.runtime.compilation import cache_folder
from sigma_jax.runtime.errors import UserError
from sigma_jax.runtime.execution import choose_platform
from sigma_jax.runtime.folder_lock import owner_of
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.tasks.base import run_config
from sigma_jax.train.plan import split_batch
from sigma_jax.train.setup import Demands, NoAccelerator, demands, require_platform

FLAGS = flags.FlagValues()  # its own: commands share names
flags.DEFINE_string("config", None, "Config whose mesh, batch and workers are checked.", flag_values=FLAGS)
flags.DEFINE_string(
    "workdir", None, "Folder of the run, checked for writing (buckets: --checkpoint_dir).", flag_values=FLAGS
)
flags.DEFINE_string("data_dir", None, "Folder of record shards, checked for reading.", flag_values=FLAGS)
flags.DEFINE_string("platform", None, "cpu: accept the CPU even if the config needs an accelerator.", flag_values=FLAGS)
flags.DEFINE_string(
    "checkpoint_dir", None, "Folder or bucket (gs://b/runs) of checkpoints, checked for writing.", flag_values=FLAGS
)
distributed.define_flags(FLAGS)

OVERRIDES: dict[str, str] = {}  # --config.x=y

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "ml-collections", "einops", "absl-py"),
    *("tensorflow-datasets", "scipy", "google-crc32c", "pebble", "threadpoolctl", "safetensors", "ml-dtypes"),
    *("tensorboardX", "tqdm", "matplotlib", "pillow"),
)
DECODERS = {"av": "H.264 and other videos", "simplejpeg": "JPEG frames", "cv2": "resizing"}
WANTED_DISK = 20 * 2**30
STORAGE_SECONDS = 50


class Finding(NamedTuple):
    """Result of a check; `level` is ok, note or FAIL."""

    level: str
    text: str


def chosen_config() -> configs.ConfigDict:
    """--config with the --config.x=y of the command line."""
    return run_config(FLAGS.config, OVERRIDES)


def chosen() -> Demands | None:
    """What --config requires of a machine; None without it."""
    return demands(chosen_config()) if FLAGS.config else None


def check_versions() -> Iterator[Finding]:
    """Python and the packages of the step."""
    python = sys.version_info[:3]
    level = "ok" if python >= (3, 11) else "FAIL"
    yield Finding(level, f"Python {'.'.join(map(str, python))} (3.11 or newer is needed)")
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("ok", ", ".join(found))
    if missing:
        yield Finding("FAIL", f"not installed: {', '.join(missing)}; run pip install -e .")


def check_devices() -> Iterator[Finding]:
    """The devices of JAX; a second process must see the same."""
    device = jax.local_devices()[0]
    text = f"{jax.process_count()} process(es) x {jax.local_device_count()} {device.device_kind}"
    if device.platform == "cpu":
        found = [
            name for name, sign in (("NVIDIA GPU", "/dev/nvidia0"), ("TPU", "/dev/accel0")) if os.path.exists(sign)
        ]
        if found:
            extra = "cuda" if found[0].startswith("NVIDIA") else "tpu"
            yield Finding("FAIL", f'{text}, but the machine has a {found[0]}: pip install -e ".[{extra}]"')
        else:
            yield Finding("note", f"{text}: CPU only. The demo runs; K400 or SSv2 pre-training would take years")
        try:
            if asked := chosen():
                require_platform(asked.needs_accelerator, FLAGS.platform)
        except NoAccelerator as error:
            yield Finding("FAIL", f"{FLAGS.config}: {error}")
        return
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    yield Finding("ok", f"{text}, {memory / 2**30:.1f} GiB usable each")


def check_arithmetic() -> Iterator[Finding]:
    """Whether a sum over all local devices is right."""
    count = jax.local_device_count()
    add = jax.pmap(lambda x: jax.lax.psum(x, "d"), "d", devices=jax.local_devices())
    total = float(add(np.arange(count, dtype=np.float32))[0])
    right = total == count * (count - 1) / 2
    advice = "" if right else ": a device or its link is broken"
    yield Finding(
        "ok" if right else "FAIL", f"a sum over {count} local device(s) is {'right' if right else 'WRONG'}{advice}"
    )


def check_mesh() -> Iterator[Finding]:
    """Mesh and batch of --config on these devices."""
    asked = chosen()
    if asked is None:
        return
    try:
        mesh = make_mesh(*asked.mesh)
        micro, accumulation = split_batch(asked.batch_size, mesh.size, asked.max_batch_per_device)
    except ValueError as error:
        yield Finding("FAIL", str(error))
        return
    yield Finding(
        "ok",
        f"mesh {dict(mesh.shape)}, {asked.batch_size} clips = {mesh.size} x {micro} x {accumulation} micro-batch(es)",
    )


def check_decoders() -> Iterator[Finding]:
    """The libraries that read videos and frames; shards of pictures need none for videos."""
    for name, purpose in DECODERS.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            needless = name == "av" and holds_pictures()
            told = f"{name} ({purpose}) does not import: {error}"
            yield Finding("note", f"{told}; these data need it not") if needless else Finding("FAIL", told)
        else:
            yield Finding("ok", f"{name} ({purpose})")


def check_workers() -> Iterator[Finding]:
    """Host cores and shared memory for the decoding processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = chosen()
    workers = asked.num_workers if asked else 0
    text = f"{cores} core(s) for {workers} decoding process(es)"
    yield Finding(
        "note" if workers > cores else "ok", text + (": lower --config.data.num_workers" if workers > cores else "")
    )
    if not os.path.isdir("/dev/shm"):
        return
    free, wanted = shutil.disk_usage("/dev/shm").free, 0
    if workers:
        layout = make_layout(max(asked.clips_per_batch // jax.process_count(), 1), 0, 1, asked.clip_bytes)
        wanted = shared_rooms(layout, asked.clip_bytes, workers).total_bytes
    told = f"/dev/shm has {free / 2**30:.1f} GiB free"
    if free < wanted:
        told += f", {workers} workers want {wanted / 2**30:.1f}: docker run --shm-size=16g, or a smaller batch per host"
    yield Finding("ok" if free >= wanted else "FAIL", told)


def check_storage() -> Iterator[Finding]:
    """Whether a file can be written to workdir and bucket and read back; free space."""
    given = [folder for folder in (FLAGS.workdir, FLAGS.checkpoint_dir) if folder]
    for folder in given or [tempfile.gettempdir()]:
        problem = refusal(folder)
        if problem:
            yield Finding("FAIL", f"{folder} cannot be written ({problem}): {storage.advice(folder, problem)}")
            continue
        owner = None if "://" in folder else owner_of(folder)
        if owner is not None:
            yield Finding("note", f"{folder} is in use by {owner}: another run there is refused")
        yield Finding("ok", f"files can be written to {folder} and read back")
        if "://" not in folder:
            free = shutil.disk_usage(folder).free
            level = "ok" if free > WANTED_DISK else "note"
            yield Finding(
                level, f"{free / 2**30:.0f} GiB free there (a ViT-B checkpoint is 1.2 GB, ViT-L 3.8; two are kept)"
            )


PROBE = "import sys; from sigma_jax.checkpoints.storage import write_and_read; write_and_read(sys.argv[1])"


def refusal(folder: str, seconds: float = STORAGE_SECONDS) -> str:
    """Why a file cannot be written to a folder or bucket and read back; "" if it can.

    Tried in a process of its own: storage clients have exceptions of their own, print what they like, and repeat what
    fails for minutes.
    """
    command = [sys.executable, "-c", PROBE, folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return said[-1][:300] if done.returncode else ""


def open_data() -> Source:
    """The training split of --data_dir."""
    asked = chosen()
    return open_source(FLAGS.data_dir, asked.split if asked else "train")


def holds_pictures() -> bool:
    """Whether the shards hold JPEG images: still images, or one per frame."""
    try:
        source = open_data() if FLAGS.data_dir else None
        return source is not None and (source.stills or bool(source[0].frames))
    except (UserError, BadRecord, OSError):
        return False


def check_data() -> Iterator[Finding]:
    """Shards of --data_dir: there, in order as a whole, and one record decoded."""
    if not FLAGS.data_dir:
        return
    source = open_data()
    size = sum(shard.stat().st_size for shard in source.shards if shard.is_file())
    about = f"{FLAGS.data_dir}: {len(source)} records of split {source.split!r} in {len(source.shards)} shard(s)"
    yield Finding("ok", f"{about}, {size / 2**30:.1f} GiB, {len(source.classes)} class name(s)")
    try:
        record = source[0]
        if source.stills:
            record = dataclasses.replace(record, frames=(record.video,))
        shape = decode_record(record, np.zeros(1, np.int64)).shape
    except (BadRecord, BadVideo, ImportError) as error:
        yield Finding("FAIL", f"the first record cannot be read: {error}")
    else:
        yield Finding("ok", f"the first record decodes, {shape[1]} x {shape[2]} pixels")


def check_cache() -> Iterator[Finding]:
    """The folder of JAX's compilation cache."""
    folder = cache_folder()
    if not folder:
        yield Finding("note", "compilation cache is off: every start compiles anew (set JAX_COMPILATION_CACHE_DIR)")
        return
    if "://" in folder:
        problem = refusal(folder)
        told = f"cannot be written ({problem}): {storage.advice(folder, problem)}" if problem else "can be written"
        yield Finding("FAIL" if problem else "ok", f"compilation cache {folder} {told}")
        return
    where = Path(folder)
    count = len(list(where.iterdir())) if where.exists() else 0
    yield Finding("ok", f"compilation cache {folder}: {count} file(s)")


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": check_versions,
    "devices": check_devices,
    "arithmetic": check_arithmetic,
    "mesh": check_mesh,
    "decoders": check_decoders,
    "workers": check_workers,
    "storage": check_storage,
    "data": check_data,
    "cache": check_cache,
}


def parse(argv: list[str]) -> None:
    """Flags into FLAGS, --config.x=y into OVERRIDES."""
    rest, given = configs.split_command_line(argv)
    OVERRIDES.clear()
    OVERRIDES.update(given)
    parse_flags(FLAGS, rest, __doc__)


def findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; a check that raises is a failed one."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - a broken machine breaks in every way
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        yield Finding("FAIL", told[:2000])


def examine(_: None) -> int:
    """Prints the findings of all checks."""
    choose_platform(FLAGS.platform)
    if FLAGS.config:
        chosen_config()  # its errors come before any waiting for others
    print(distributed.connect(distributed.meeting_from_flags(FLAGS), FLAGS.connect_seconds, FLAGS.peer_seconds))
    failed = 0
    for name, check in CHECKS.items():
        for finding in findings(check):
            failed += finding.level == "FAIL"
            print(f"{name:11s}{finding.level:5s} {finding.text}", flush=True)
    print(f"{failed} check(s) failed" if failed else "nothing failed")
    return 1 if failed else 0


main = Command("doctor", parse, examine, say=lambda sentence: print(f"{'start':11s}FAIL  {sentence}"))

if __name__ == "__main__":
    leave(main(sys.argv))
