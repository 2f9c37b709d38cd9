"""Folders and buckets: resolving paths, testing whether files can be written, and the errors of storage clients."""

import secrets
import shutil
import sys

import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from sigma_jax.runtime.errors import UserError

# Exceptions of the clients of buckets that are no OSErrors, by module; only imported modules can have raised them.
CLIENT_ERRORS = (
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
)


class NotWritable(UserError, OSError):
    """No file can be written to a folder or bucket."""


def absolute(path: str | epath.Path) -> epath.Path:
    """`path` as an absolute path; paths of buckets (gs://, s3://) stay as they are."""
    if "://" in str(path):  # `resolve` would make a local folder of it
        return epath.Path(path)
    return epath.Path(path).expanduser().resolve()


def storage_errors() -> tuple[type[Exception], ...]:
    """Exceptions that mean a full disk, no permission, no login or no network.

    ValueError and RuntimeError are among them because tensorstore and JAX raise these.
    """
    clients = [getattr(sys.modules[module], name) for module, name in CLIENT_ERRORS if module in sys.modules]
    return (OSError, ValueError, RuntimeError, ImportError, *clients)


def write_and_read(folder: str | epath.Path) -> None:
    """Writes a small file, reads it back and deletes it; raises whatever the storage's client raises."""
    probe = epath.Path(folder) / f"probe-{secrets.token_hex(4)}.txt"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text("sigma")
    found = probe.read_text()
    probe.unlink()
    if found != "sigma":
        raise OSError(f"wrote 'sigma', read {found!r}")


def check_writable(folder: str | epath.Path) -> None:
    """Raises NotWritable, with what to do, if a file cannot be written and read back."""
    try:
        write_and_read(folder)
    except storage_errors() as error:
        problem = f"{type(error).__name__}: {str(error)[:300]}"
        raise NotWritable(f"{folder} cannot be written ({problem}): {advice(str(folder), problem)}") from error


def free_bytes(folder: epath.Path) -> int | None:
    """Free bytes on the disk of a folder; None for a bucket."""
    return None if "://" in str(folder) else shutil.disk_usage(folder).free


def remove_unfinished(folder: epath.Path, step: int | None = None) -> None:
    """Deletes what killed or failed saves (of `step`, or of any) have left behind, which would keep the disk full."""
    try:
        for unfinished in ocp.utils.tmp_checkpoints(folder):
            path = unfinished.get()
            if step is None or path.name.split(".")[0] == str(step):
                path.rmtree()
    except storage_errors() as error:
        logging.warning("unfinished checkpoints in %s cannot be deleted (%s): they take room", folder, error)


def advice(folder: str, problem: str) -> str:
    """What to do about a folder or bucket that cannot be written."""
    if "://" not in folder:
        return "choose another folder, or change its permissions"
    if "ImportError" in problem or "ModuleNotFoundError" in problem:
        return 'pip install -e ".[cloud]"'
    login = "aws configure" if folder.startswith("s3://") else "gcloud auth application-default login"
    return f"log in ({login}), check the bucket's name, your role on it, and the network"
