"""A file is there completely or not at all, and what could not be finished is removed."""

import errno
from pathlib import Path

import numpy as np
import pytest

from sigma_jax.data.records import _save_index
from sigma_jax.runtime.files import replacing
from sigma_jax.weights.huggingface import _write_file
from sigma_jax.weights.pth import write_pth


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.json"
    with replacing(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_what_could_not_be_finished_is_removed(tmp_path, stop):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(type(stop)), replacing(path) as partial:
        partial.write_text("half")
        raise stop
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


class _Full:
    """An array whose bytes do not fit on the disk."""

    dtype, shape, size, nbytes = np.dtype("float32"), (1,), 1, 4

    def __array__(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_pth(path, {"a": np.ones(3, np.float32), "b": _Full()}),
        lambda path: _write_file(path, {"a": np.ones(3, np.float32), "b": _Full()}),
        lambda path: _save_index(path, {"sizes": np.ones(3), "counts": _Full()}),
    ],
)
def test_writers_leave_nothing_of_a_full_disk(tmp_path, write):
    with pytest.raises(OSError, match="No space left"):
        write(Path(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []
