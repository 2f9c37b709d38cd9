"""Where the system refuses to read a file, nobody is told that the file is damaged, and it is not replaced."""

import numpy as np
import pytest

from sigma_jax.data.records import Record, RecordSource, ShardWriter
from sigma_jax.datasets.annotation_lists import mat_cycles
from sigma_jax.evals.feature_cache import cached_features
from sigma_jax.runtime.errors import StorageRefused, refusal
from sigma_jax.weights.huggingface import read_safetensors
from sigma_jax.weights.pth import read_pth
from sigma_jax.weights.weights_file import read_npz

TOLD = "cannot be read .*Input/output error.*: check its permissions and the disk"


@pytest.fixture
def unreadable(tmp_path):
    """A file that opens and whose first byte is an I/O error, also for root."""
    path = tmp_path / "file"
    try:
        path.symlink_to("/proc/self/mem")
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        if error.strerror == "Input/output error":
            return path
    pytest.skip("this system has no such file")


@pytest.mark.parametrize("read", [read_npz, read_pth, read_safetensors])
def test_weights(unreadable, read):
    with pytest.raises(StorageRefused, match=TOLD):
        read(unreadable)


def test_an_annotation(unreadable):
    with pytest.raises(ValueError, match=TOLD):
        mat_cycles(unreadable)


def test_an_index(tmp_path, unreadable):
    with ShardWriter(tmp_path / "toy-train-00000-of-00001.tfrecord") as writer:
        writer.write(Record(b"video", "a.mp4", 0, "", 1))
    RecordSource(tmp_path, "train").close()
    index = tmp_path / "toy-train.index.npz"
    index.unlink()
    index.symlink_to(unreadable)
    with pytest.raises(StorageRefused, match=f"{index} {TOLD}"):
        RecordSource(tmp_path, "train")
    assert index.is_symlink()


def test_stored_features(tmp_path, unreadable):
    def ask():
        batch = {"video": np.zeros((1, 2, 2, 2, 3), np.uint8), "label": np.zeros(1, int)}
        networks = {"a": lambda video: video.reshape(1, -1)}
        return cached_features(tmp_path, {"a": {"b": 1}}, networks, lambda: [batch])

    ask()
    (stored,) = tmp_path.glob("*.npz")
    stored.unlink()
    stored.symlink_to(unreadable)
    with pytest.raises(StorageRefused, match=TOLD):
        ask()
    assert stored.is_symlink()


def test_errors_of_libraries_about_content_are_none():
    assert refusal(OSError("Failed to interpret file as a pickle"), "x.npz") is None
    assert refusal(ValueError("no"), "x") is None
    assert "x cannot be read (Permission denied)" in str(refusal(PermissionError(13, "Permission denied"), "x"))
