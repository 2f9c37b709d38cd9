"""Files that are either there completely or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well.

    Where it does not (a full disk), what was written is removed: it would keep the disk full. Several processes and
    hosts may write the same file at once; the last one's is kept.
    """
    partial = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
