"""Where checkpoints are kept: buckets keep their names, and what cannot be written is said at once."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sigma_jax.checkpoints import storage
from sigma_jax.checkpoints.manager import Checkpointer, SaveFailed


@pytest.mark.parametrize("place", ["gs://bucket/runs/a", "s3://bucket/runs/a"])
def test_a_bucket_is_not_a_local_folder(place):
    assert str(storage.absolute(place)) == place
    assert str(storage.absolute(storage.absolute(place) / "12")) == f"{place}/12"


def test_local_paths_start_at_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(storage.absolute("runs/../a")) == tmp_path / "a"
    assert Path(storage.absolute("~")) == Path.home()


def test_what_does_not_take_files_is_named(tmp_path):
    storage.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(storage.NotWritable, match="file/run cannot be written .NotADirectoryError.*another folder"):
        storage.check_writable(tmp_path / "file" / "run")


@pytest.fixture
def client_error(monkeypatch):
    """An error that only the client of a bucket knows."""
    error = type("HttpError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "gcsfs.retry", SimpleNamespace(HttpError=error))
    return error("503, try later")


@pytest.mark.parametrize(
    "place,advice", [("gs://bucket/a", "gcloud auth application-default login"), ("s3://bucket/a", "aws configure")]
)
def test_a_refusing_bucket_is_named(place, advice, client_error, monkeypatch):
    monkeypatch.setattr(storage, "write_and_read", lambda folder: (_ for _ in ()).throw(client_error))
    with pytest.raises(
        storage.NotWritable, match=rf"{place} cannot be written .HttpError: 503, try later.: .*{advice}"
    ):
        storage.check_writable(place)
    missing = ImportError("Please install gcsfs")
    monkeypatch.setattr(storage, "write_and_read", lambda folder: (_ for _ in ()).throw(missing))
    with pytest.raises(storage.NotWritable, match=r'pip install -e "\.\[cloud\]"'):
        storage.check_writable(place)


def test_a_bucket_that_fails_late_is_survived_but_not_at_the_end(tmp_path, client_error, monkeypatch):
    state = {"w": jax.device_put(np.ones(3, np.float32))}
    checkpointer = Checkpointer(tmp_path, keep_last=1, save_every_steps=1)

    def save(step: int) -> bool:
        return checkpointer.save(step, state, data_state={}, meta={})

    def refuse(*args, **kwargs):
        raise client_error

    assert save(1)
    checkpointer.require(1)
    with monkeypatch.context() as broken:
        broken.setattr(ocp.CheckpointManager, "save", refuse)
        broken.setattr(ocp.CheckpointManager, "reload", refuse)  # not even its list of steps can be read
        assert not save(2), "reported, not raised"
        assert not save(3)
        with pytest.raises(SaveFailed, match="step 3, the last one, is not saved.*last good checkpoint: 1"):
            checkpointer.require(3)
    assert save(4)
    checkpointer.require(4)
    assert checkpointer.all_steps() == [4]
    checkpointer.close()
