"""The .pth reader and writer without PyTorch; the older format and PyTorch itself where it is installed."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from sigma_jax.weights.pth_reader import LEGACY_MAGIC, read_pth
from sigma_jax.weights.pth_writer import write_pth
from sigma_jax.weights.weights_file import UnreadableWeights

ARRAYS = {
    "patch.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
    "scalar": np.float32(3.5).reshape(()),
    "empty": np.zeros((0, 3), np.float32),
}


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def zipped(path, payload: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    return path


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    write_pth(tmp_path / "w.pth", ARRAYS)
    read = read_pth(tmp_path / "w.pth")["model"]
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == np.float32 and read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)
    assert [file.name for file in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path, legacy):
    payload = pickle.dumps(RunsCode(tmp_path / "ran"), protocol=2)
    path = tmp_path / "evil.pth"
    if legacy:
        path.write_bytes(payload)
    else:
        zipped(path, payload)
    with pytest.raises(UnreadableWeights, match=r"evil\.pth is refused: its pickle asks for (posix|nt)\.system"):
        read_pth(path)
    assert not (tmp_path / "ran").exists()


def test_whole_modules_are_refused_by_name(tmp_path):
    payload = pickle.PROTO + b"\x02" + pickle.GLOBAL + b"torch.nn.modules.linear\nLinear\n" + pickle.STOP
    with pytest.raises(UnreadableWeights, match=r"torch\.nn\.modules\.linear\.Linear.*save its state dict alone"):
        read_pth(zipped(tmp_path / "module.pth", payload))


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    write_pth(tmp_path / "w.pth", {"a": np.zeros(4, np.float32)})
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        payload = archive.read("archive/data.pkl")
    with zipfile.ZipFile(tmp_path / "short.pth", "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/data/0", b"\x00" * 8)
    with pytest.raises(UnreadableWeights, match=r"short\.pth is truncated.*element 3 of a storage of 2"):
        read_pth(tmp_path / "short.pth")


@pytest.mark.parametrize("kept", [10, 200, 600])
def test_truncated_files(tmp_path, kept):
    write_pth(tmp_path / "w.pth", ARRAYS)
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:kept])
    with pytest.raises(UnreadableWeights, match=r"cut\.pth is truncated"):
        read_pth(tmp_path / "cut.pth")


def legacy_file(arrays: dict[str, np.ndarray]) -> bytes:
    """What torch wrote before 1.6, opcode by opcode where it names torch's classes."""

    def text(word: str) -> bytes:
        return pickle.BINUNICODE + struct.pack("<I", len(word)) + word.encode()

    def integer(n: int) -> bytes:
        return pickle.BININT + struct.pack("<i", n)

    def many(numbers) -> bytes:
        return pickle.MARK + b"".join(map(integer, numbers)) + pickle.TUPLE

    body = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT
    for i, (name, array) in enumerate(arrays.items()):
        strides = [stride // array.itemsize for stride in array.strides]
        storage = text("storage") + pickle.GLOBAL + b"torch\nFloatStorage\n" + text(f"k{i}") + text("cpu")
        body += text(name) + pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + pickle.MARK
        body += pickle.MARK + storage + integer(array.size) + pickle.NONE + pickle.TUPLE + pickle.BINPERSID
        body += integer(0) + many(array.shape) + many(strides) + pickle.NEWFALSE
        body += pickle.EMPTY_DICT + pickle.TUPLE + pickle.REDUCE + pickle.SETITEM
    out = io.BytesIO()
    for value in (LEGACY_MAGIC, 1001, {"little_endian": True}):
        out.write(pickle.dumps(value, protocol=2))
    out.write(body + pickle.STOP)
    out.write(pickle.dumps([f"k{i}" for i in range(len(arrays))], protocol=2))
    for array in arrays.values():
        out.write(struct.pack("<q", array.size) + array.tobytes())
    return out.getvalue()


def test_the_format_before_torch_1_6(tmp_path):
    whole = legacy_file(ARRAYS)
    (tmp_path / "old.pth").write_bytes(whole)
    read = read_pth(tmp_path / "old.pth")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
    (tmp_path / "cut.pth").write_bytes(whole[:-30])
    with pytest.raises(UnreadableWeights, match=r"cut\.pth is truncated.*storage k"):
        read_pth(tmp_path / "cut.pth")


@pytest.mark.parametrize("zip_format", [True, False])
def test_files_of_pytorch(tmp_path, zip_format):
    torch = pytest.importorskip("torch")
    import argparse

    state = collections.OrderedDict(
        transposed=torch.randn(3, 4).T,
        part=torch.arange(10.0)[3:7],
        whole=torch.arange(5),
        half=torch.randn(2, 2).half(),
        brain=torch.randn(2, 2).bfloat16(),
        parameter=torch.nn.Parameter(torch.randn(3)),
    )
    args = argparse.Namespace(lr=1e-3, device=torch.device("cpu"), type=torch.float32, best=np.float64(3))
    file = {"model": state, "epoch": 7, "args": args}
    torch.save(file, tmp_path / "t.pth", _use_new_zipfile_serialization=zip_format)
    read = read_pth(tmp_path / "t.pth")
    assert read["epoch"] == 7 and read["args"].lr == 1e-3
    for name, tensor in state.items():
        np.testing.assert_array_equal(read["model"][name].astype(np.float32), tensor.detach().float().numpy())


def test_pytorch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    write_pth(tmp_path / "w.pth", ARRAYS)
    for mmap in (False, True):
        read = torch.load(tmp_path / "w.pth", weights_only=True, mmap=mmap)["model"]
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(read[name].numpy(), array)
