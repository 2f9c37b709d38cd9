"""The .pth reader and writer without PyTorch; the older format and PyTorch itself where it is installed."""

import argparse
import collections
import datetime
import fractions
import io
import os
import pathlib
import pickle
import re
import struct
import zipfile

import numpy as np
import pytest

from sigma_jax.weights import pickles, pth
from sigma_jax.weights.formats import read_weights
from sigma_jax.weights.pickles import Unknown
from sigma_jax.weights.pth import LEGACY_MAGIC, _tensor, read_pth, write_pth
from sigma_jax.weights.published import state_dict_of
from sigma_jax.weights.weights_file import UnreadableWeights, WeightsMismatch

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
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path, legacy):
    """Alone it is refused by name; beside weights, or among them, it stays a name."""
    path = tmp_path / "evil.pth"
    if legacy:
        path.write_bytes(legacy_file(ARRAYS, company=pickle.dumps(RunsCode(tmp_path / "ran"), protocol=2)[2:-1]))
    else:
        payload = pickle.dumps(RunsCode(tmp_path / "ran"), protocol=2)
        with pytest.raises(WeightsMismatch, match=r"evil\.pth holds (posix|nt)\.system.*model\.state_dict\(\)"):
            read_weights(zipped(path, payload))
        zipped(path, pickle.dumps({"model": {"a.weight": RunsCode(tmp_path / "ran")}, "x": 1}, protocol=2))
    read = read_pth(path)
    assert str(read["company"] if legacy else read["model"]["a.weight"]).endswith(".system")
    assert not (tmp_path / "ran").exists()


def test_whole_modules_are_refused_by_name(tmp_path):
    payload = pickle.PROTO + b"\x02" + pickle.GLOBAL + b"torch.nn.modules.linear\nLinear\n" + pickle.STOP
    with pytest.raises(WeightsMismatch, match=r"torch\.nn\.modules\.linear\.Linear.*no state dict"):
        read_weights(zipped(tmp_path / "module.pth", payload))


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    write_pth(tmp_path / "w.pth", {"a": np.zeros(4, np.float32)})
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        payload = archive.read("archive/data.pkl")
    with zipfile.ZipFile(tmp_path / "short.pth", "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/data/0", b"\x00" * 8)
    with pytest.raises(UnreadableWeights, match=r"short\.pth is truncated.*element 3 of a storage of 2"):
        np.asarray(read_pth(tmp_path / "short.pth")["model"]["a"])


@pytest.mark.parametrize("kept", [10, 200, 600])
def test_truncated_files(tmp_path, kept):
    write_pth(tmp_path / "w.pth", ARRAYS)
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:kept])
    with pytest.raises(UnreadableWeights, match=r"cut\.pth is truncated"):
        read_pth(tmp_path / "cut.pth")


def legacy_file(arrays: dict[str, np.ndarray], company: bytes = b"") -> bytes:
    """What torch wrote before 1.6, opcode by opcode where it names torch's classes."""

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
    if company:
        body += text("company") + company + pickle.SETITEM
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
    assert read["epoch"] == 7 and read["args"]["lr"] == 1e-3
    for name, tensor in state.items():
        np.testing.assert_array_equal(np.asarray(read["model"][name], np.float32), tensor.detach().float().numpy())


def test_pytorch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    write_pth(tmp_path / "w.pth", ARRAYS)
    for mmap in (False, True):
        read = torch.load(tmp_path / "w.pth", weights_only=True, mmap=mmap)["model"]
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(read[name].numpy(), array)


def with_company(path, company: bytes, arrays=None, key: str = "company", first: str = "model"):
    """A file of one weight beside which lies whatever `company`, a pickle's body, leaves on the stack."""
    write_pth(path, arrays or {"a.weight": np.arange(4, dtype=np.float32)}, key=first)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["archive/data.pkl"] = members["archive/data.pkl"][:-1] + text(key) + company + b"s."
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def text(word: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(word)) + word.encode()


HARMLESS = {
    "set": {"names": set("ab"), "frozen": frozenset("ab")},
    "paths": argparse.Namespace(out=pathlib.PurePosixPath("/out"), lr=0.1),
    "random state": np.random.RandomState(0).get_state(),
    "numpy": {"best": np.float64(3), "array": np.arange(3), "type": np.dtype("f4")},
    "counters": [collections.Counter("ab"), collections.defaultdict(list, a=[1]), collections.deque([1, 2])],
    "date": [datetime.datetime(2026, 1, 1), fractions.Fraction(1, 2), re.compile("x"), slice(1), 3j],
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_company_does_not_matter(tmp_path, name, protocol):
    body = pickle.dumps(HARMLESS[name], protocol=protocol)[2 if protocol >= 2 else 0 : -1]
    read = read_pth(with_company(tmp_path / "w.pth", body))
    np.testing.assert_array_equal(read["model"]["a.weight"], np.arange(4))
    if name == "paths" and protocol >= 2:
        assert read["company"]["lr"] == 0.1 and "PurePosixPath" in repr(read["company"]["out"])


def test_a_tensor_beside_the_state_dict_is_company_too(tmp_path):
    """As the state of torch's random generator is."""
    loaded = read_pth(with_company(tmp_path / "w.pth", _tensor("0", (4,))))
    assert set(loaded) == {"model", "company"}
    arrays, notes, _ = state_dict_of(loaded, "w.pth")
    assert list(arrays) == ["a.weight"] and notes == []


def test_what_is_no_array_in_a_state_dict_is_left_out_with_a_note():
    arrays, notes, _ = state_dict_of({"a": np.ones(2), "epoch": 3, "hook": Unknown("posix.system")}, "w.pth")
    assert list(arrays) == ["a"] and notes == ["left out, since they are no arrays: epoch, hook"]
    for name in ("torch._utils._rebuild_sparse_tensor", "torch.ComplexFloatStorage"):
        with pytest.raises(WeightsMismatch, match=f"entries that are no arrays: b .{name}"):
            state_dict_of({"a": np.ones(2), "b": Unknown(name)}, "w.pth")
    with pytest.raises(WeightsMismatch, match=r"keys: b; of types that are not read: torch\.Float8_e4m3fnStorage"):
        state_dict_of({"b": Unknown("torch.Float8_e4m3fnStorage")}, "w.pth")


def deep(levels: int, wrap: bytes) -> bytes:
    return pickle.NONE + wrap * levels


NESTED = {
    "tuples": deep(300_000, pickle.TUPLE1),
    "key of a dict": pickle.EMPTY_DICT + deep(300_000, pickle.TUPLE1) + pickle.NONE + pickle.SETITEM,
    "member of a set": b"\x8f(" + deep(300_000, pickle.TUPLE1) + b"\x90",
    "itself": pickle.EMPTY_LIST + pickle.MEMOIZE + b"h\x00a",
    "parameters": b"ctorch._tensor\n_rebuild_from_type_v2\n" + deep(300_000, pickle.TUPLE1) + pickle.REDUCE,
}


@pytest.mark.parametrize("name", NESTED)
def test_nesting_does_not_exhaust_the_stack(tmp_path, name):
    read = read_pth(with_company(tmp_path / "w.pth", NESTED[name]))
    np.testing.assert_array_equal(read["model"]["a.weight"], np.arange(4))


def test_a_wrapper_that_holds_itself_is_refused(tmp_path):
    itself = pickle.PROTO + b"\x02}q\x00" + text("model") + b"h\x00s."
    with pytest.raises(WeightsMismatch, match=r"w\.pth holds no weights \(keys: model\)"):
        read_weights(zipped(tmp_path / "w.pth", itself))


def test_no_class_or_function_of_the_reader_can_be_changed(tmp_path):
    """BUILD with a pair of dicts would set attributes of whatever lies on the stack."""
    state = pickle.NONE + pickle.EMPTY_DICT + text("__init__") + pickle.NONE + pickle.SETITEM + pickle.TUPLE2
    for name in (b"argparse\nNamespace\n", b"torch._utils\n_rebuild_tensor_v2\n", b"collections\nOrderedDict\n"):
        read_pth(with_company(tmp_path / "w.pth", pickle.GLOBAL + name + state + pickle.BUILD))
    assert argparse.Namespace(a=1).a == 1 and collections.OrderedDict(a=1)["a"] == 1


def test_a_changed_byte_of_a_weight_is_noticed(tmp_path):
    write_pth(tmp_path / "w.pth", ARRAYS)
    whole = bytearray((tmp_path / "w.pth").read_bytes())
    place = bytes(whole).index(ARRAYS["patch.weight"].tobytes())
    whole[place + 5] ^= 1
    (tmp_path / "w.pth").write_bytes(whole)
    with pytest.raises(UnreadableWeights, match=r"w\.pth is .*damaged.*archive/data/0.*CRC"):
        np.asarray(read_pth(tmp_path / "w.pth")["model"]["patch.weight"])


@pytest.mark.parametrize(
    "shape,strides,is_fine", [((3, 2), (0, 1), True), ((2**40,), (0,), False), ((2,), (-1,), False)]
)
def test_strides_may_repeat_numbers_but_not_without_end(tmp_path, shape, strides, is_fine):
    """Expanded tensors have stride 0: 8 bytes must not become terabytes."""

    def numbers(values) -> bytes:
        return pickle.MARK + b"".join(pickle.LONG1 + b"\x08" + struct.pack("<q", n) for n in values) + pickle.TUPLE

    storage = text("storage") + pickle.GLOBAL + b"torch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x02"
    body = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + pickle.MARK + pickle.MARK + storage + pickle.TUPLE
    body += pickle.BINPERSID + b"K\x00" + numbers(shape) + numbers(strides) + b"\x89}" + pickle.TUPLE + pickle.REDUCE
    read = read_pth(with_company(tmp_path / "w.pth", body, {"a.weight": np.arange(2, dtype=np.float32)}))
    if is_fine:
        np.testing.assert_array_equal(read["company"], [[0, 1]] * 3)
    else:
        with pytest.raises(UnreadableWeights, match=r"w\.pth is .*damaged"):
            np.asarray(read["company"])


def test_compressed_files_are_read_within_limits(tmp_path, monkeypatch):
    write_pth(tmp_path / "w.pth", ARRAYS)
    with zipfile.ZipFile(tmp_path / "w.pth") as archive, zipfile.ZipFile(tmp_path / "z.pth", "w", 8) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    np.testing.assert_array_equal(read_pth(tmp_path / "z.pth")["model"]["patch.weight"], ARRAYS["patch.weight"])
    monkeypatch.setattr(pth, "MAX_INFLATED", (2**16, 20))
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", 8) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", bytes(2**20))
    with pytest.raises(UnreadableWeights, match=r"bomb\.pth is .*claim 10\d+ bytes"):
        read_pth(tmp_path / "bomb.pth")


def test_a_pickle_without_end_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 1000)
    with pytest.raises(UnreadableWeights, match="more than 1000 instructions"):
        read_pth(with_company(tmp_path / "w.pth", b"]" * 1000))
