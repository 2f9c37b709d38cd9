"""Checkpoints: any mesh, killed saves, damaged bytes, what is kept, late failures, helpful errors."""

import os
import resource
import shutil
import signal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sigma_jax.checkpoints import storage
from sigma_jax.checkpoints.content_hash import content_hash
from sigma_jax.checkpoints.manager import (
    Checkpointer,
    CheckpointError,
    SaveFailed,
    find_checkpoint,
    read_meta,
    restore_subtree,
)


class Moments(NamedTuple):  # like an optax state
    count: jax.Array
    mu: dict


def _sharding(num_devices: int, spec: P | None = None) -> NamedSharding:
    spec = P("fsdp") if spec is None else spec
    devices = np.array(jax.devices()[:num_devices])
    return NamedSharding(jax.sharding.Mesh(devices, ("fsdp",), axis_types=(AxisType.Auto,)), spec)


def _state(num_devices: int = 8, seed: int = 0, columns: int = 13):
    rng = np.random.default_rng(seed)
    sharded, whole = _sharding(num_devices), _sharding(num_devices, P())

    def weights(rows, dtype=np.float32):
        return jax.device_put(rng.normal(size=(rows, columns)).astype(dtype), sharded)

    params = {"encoder": {"kernel": weights(64), "half": weights(16, jnp.bfloat16)}, "head": {"kernel": weights(8)}}
    moments = Moments(jax.device_put(np.int32(5), whole), {"head": weights(8)})
    flags = jax.device_put(np.array([True, False, True]), whole)
    return {"params": params, "optimizer": (moments, {}), "step": jax.device_put(np.int32(7), whole), "flags": flags}


def _abstract(state, num_devices: int):
    def describe(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharding(num_devices, leaf.sharding.spec))

    return jax.tree.map(describe, state)


def _checkpointer(folder, **changes) -> Checkpointer:
    return Checkpointer(folder, **{"keep_last": 2, "save_every_steps": 1, **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Workdir with one checkpoint of step 7, written from 8 devices; tests copy it before they change it."""
    workdir = tmp_path_factory.mktemp("run")
    checkpointer = _checkpointer(workdir / "checkpoints")
    assert checkpointer.save(7, _state(), data_state={"next_batch": 7}, meta={"config": {"size": "S"}})
    checkpointer.close()
    return workdir


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_restore_on_another_number_of_devices(saved, num_devices):
    state = _state()
    checkpointer = _checkpointer(saved / "checkpoints")
    restored, data_state, meta = checkpointer.restore(checkpointer.latest_step(), _abstract(state, num_devices))
    checkpointer.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert len(restored["params"]["encoder"]["kernel"].sharding.device_set) == num_devices
    assert data_state == {"next_batch": 7} and meta == {"config": {"size": "S"}} == read_meta(saved)


def test_restore_only_the_encoder(saved):
    state = _state()
    wanted = {"params": {"encoder": _abstract(state, 2)["params"]["encoder"]}}
    restored = restore_subtree(saved, wanted)
    jax.tree.map(np.testing.assert_array_equal, restored, {"params": {"encoder": state["params"]["encoder"]}})
    missing = {"params": {"encodr": wanted["params"]["encoder"]}}
    with pytest.raises(CheckpointError, match="params/encodr/half: not in the checkpoint"):
        restore_subtree(saved, missing)


def test_wrong_shape_dtype_and_names_are_named(saved):
    checkpointer = _checkpointer(saved / "checkpoints")
    other = _abstract(_state(columns=11), 8)
    with pytest.raises(CheckpointError, match=r"params/head/kernel: checkpoint has float32\[8, 13\].*expects.*8, 11"):
        checkpointer.restore(7, other)
    other = _abstract(_state(), 8)
    other["step"] = jax.ShapeDtypeStruct((), jnp.float32, sharding=other["step"].sharding)
    other["extra"] = other["step"]
    del other["flags"]
    with pytest.raises(CheckpointError) as caught:
        checkpointer.restore(7, other)
    for words in ("step: checkpoint has int32[]", "extra: not in the checkpoint", "flags: only in the checkpoint"):
        assert words in str(caught.value)
    with pytest.raises(CheckpointError, match=r"step 8.*there are \[7\]"):
        checkpointer.restore(8, other)
    checkpointer.close()


def test_flipped_byte_is_found(tmp_path):
    state = _state(columns=211)
    checkpointer = _checkpointer(tmp_path)
    checkpointer.save(7, state, data_state={}, meta={})
    checkpointer.wait()
    largest = max((p for p in tmp_path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    intact, found = largest.read_bytes(), 0
    for position in range(len(intact) // 14, len(intact), len(intact) // 7):
        damaged = bytearray(intact)
        damaged[position] ^= 0x10
        largest.write_bytes(damaged)
        try:
            restored, _, _ = checkpointer.restore(7, _abstract(state, 8))
        except CheckpointError as error:
            told = str(error)
            assert "damaged: 1 arrays" in told and "the first params/" in told or "damaged or cannot be read" in told
            found += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, restored, state)
    checkpointer.close()
    assert found >= 4, "the flips must have met arrays"


# Reads that Orbax dropped end after it has closed their event loop; see also pyproject.toml.
@pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [0, 100, None])
def test_a_file_that_was_cut_is_damaged_and_one_that_does_not_open_is_not(tmp_path, size):
    """None: the file is there, and the file system does not open it (a link to itself)."""
    state = _state(columns=211)
    checkpointer = _checkpointer(tmp_path)
    checkpointer.save(7, state, data_state={}, meta={})
    checkpointer.close()
    largest = max((p for p in tmp_path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = largest.read_bytes()
    largest.unlink()
    if size is None:
        largest.symlink_to(largest.name)
    else:
        largest.write_bytes(content[:size])
    told = (
        "7 cannot be read .*symbolic links.*Check its perm" if size is None else "7 is damaged .*move this folder away"
    )
    with pytest.raises(CheckpointError, match=told):
        _checkpointer(tmp_path).restore(7, _abstract(state, 8))
    with pytest.raises(CheckpointError, match=told):
        restore_subtree(tmp_path, _abstract(state, 8))


def test_hash_sees_every_bit_and_no_sharding():
    array = np.random.default_rng(0).normal(size=(8, 7, 3)).astype(np.float32)
    reference = content_hash({"a": jnp.asarray(array)})
    for num_devices in (2, 8):
        assert content_hash({"a": jax.device_put(array, _sharding(num_devices))}) == reference
    for position in (0, 83, 167):
        for bit in (0, 17, 31):
            changed = array.copy()
            changed.reshape(-1).view(np.uint32)[position] ^= np.uint32(1 << bit)
            assert content_hash({"a": jnp.asarray(changed)}) != reference
    swapped = array[[1, 0, *range(2, 8)]]
    assert content_hash({"a": jnp.asarray(swapped)}) != reference
    assert content_hash({"a": jnp.float32(0.0)}) != content_hash({"a": jnp.float32(-0.0)})
    with pytest.raises(TypeError, match="a is ndarray"):
        content_hash({"a": array})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint32", "bool", "uint8", "float8_e4m3fn"])
def test_small_arrays_are_hashed_on_the_host_as_large_ones_on_devices(monkeypatch, dtype):
    for shape in ((), (0,), (3,), (8, 7, 3)):
        values = np.random.default_rng(0).normal(size=shape) * 50
        for array in (jnp.asarray(values.astype(np.float32)).astype(dtype), jnp.zeros(shape, dtype)):
            host = content_hash({"a": array})
            with monkeypatch.context() as patch:
                patch.setattr("sigma_jax.checkpoints.content_hash.SMALL", -1)
                assert content_hash({"a": array}) == host, (shape, dtype)


def test_state_may_be_donated_while_it_is_written(tmp_path):
    """The next training step overwrites the buffers at once; what is written must be the old values."""
    state = {"w": jax.device_put(np.ones((8, 50021), np.float32), _sharding(8))}
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpointer = _checkpointer(tmp_path)
    for number in range(1, 4):
        before = _abstract(state, 8)
        expected = float(state["w"][0, 0])
        assert checkpointer.save(number, state, data_state={}, meta={})
        for _ in range(5):
            state = step(state)
        checkpointer.wait()
        restored, _, _ = checkpointer.restore(number, before)
        np.testing.assert_array_equal(restored["w"], np.full((8, 50021), expected))
    checkpointer.close()


def test_killed_save_is_ignored_and_removed(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    half = folder / "9.orbax-checkpoint-tmp"
    shutil.copytree(folder / "7", half)
    (half / "commit_success.txt").unlink(missing_ok=True)
    assert find_checkpoint(tmp_path / "run").name == "7"
    checkpointer = _checkpointer(folder)
    assert checkpointer.latest_step() == 7
    assert checkpointer.save(9, _state(seed=1), data_state={}, meta={})
    checkpointer.close()
    assert not half.exists() and find_checkpoint(tmp_path / "run").name == "9"


def test_uncommitted_folder_of_a_bucket_is_ignored(saved, tmp_path, monkeypatch):
    """Buckets cannot rename: there a half-written step has its number already, and Orbax knows by the commit file."""
    shutil.copytree(saved, tmp_path / "run")
    shutil.copytree(saved / "checkpoints" / "7", tmp_path / "run" / "checkpoints" / "9")
    assert find_checkpoint(tmp_path / "run").name == "9"
    monkeypatch.setattr(ocp.utils, "is_checkpoint_finalized", lambda path: path.name != "9")
    assert find_checkpoint(tmp_path / "run").name == "7"


def test_what_is_due_and_what_is_kept(tmp_path):
    checkpointer = _checkpointer(tmp_path, save_every_steps=3, keep_every_steps=6)
    state = _state()
    saved = [step for step in range(20) if checkpointer.save(step, state, data_state={}, meta={})]
    assert saved == [3, 6, 9, 12, 15, 18]
    assert checkpointer.save(19, state, data_state={}, meta={}, force=True)
    assert not checkpointer.save(19, state, data_state={}, meta={}, force=True), "there already"
    checkpointer.close()
    assert checkpointer.all_steps() == [6, 12, 18, 19]
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [6, 12, 18, 19]
    for wrong in ({"keep_last": 0}, {"save_every_steps": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            _checkpointer(tmp_path, **wrong)


@pytest.fixture
def small_files():
    """Switch on a limit of 32 kB per file: writing more fails like a full disk, in the background thread."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda on: resource.setrlimit(resource.RLIMIT_FSIZE, (32768 if on else before[0], before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


# Orbax closes its event loop when one array cannot be written; the writes of the others still report to it.
@pytest.mark.filterwarnings(
    "ignore:(?s)Exception ignored in. None.*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
)
def test_late_failure_is_reported_and_survived(tmp_path, small_files):
    state = _state(columns=1013)
    checkpointer = _checkpointer(tmp_path, keep_last=1, max_save_failures=2)
    assert checkpointer.save(1, state, data_state={}, meta={})
    checkpointer.wait()
    assert checkpointer.failure() is None
    small_files(True)
    checkpointer.save(2, state, data_state={}, meta={})
    while (text := checkpointer.failure()) is None:
        pass
    assert "saving step 2 failed (1 in a row, the run stops at 2)" in text and text.endswith("Last good checkpoint: 1")
    assert checkpointer.failure() is None, "said once"
    assert [path.name for path in tmp_path.iterdir()] == ["1"], "what is left of a failed save keeps the disk full"
    small_files(False)
    assert checkpointer.save(3, state, data_state={}, meta={})
    checkpointer.wait()
    assert checkpointer.all_steps() == [3]
    small_files(True)
    assert checkpointer.save(4, state, data_state={}, meta={})
    assert checkpointer.save(5, state, data_state={}, meta={}), "one failure in a row: the success in between counts"
    with pytest.raises(SaveFailed, match="2 saves in a row failed.*last good checkpoint: 3"):
        checkpointer.save(6, state, data_state={}, meta={})
    small_files(False)
    restored, _, _ = checkpointer.restore(3, _abstract(state, 8))
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_saving_small_arrays_compiles_no_program_for_each(tmp_path):
    compiled: list[str] = []

    def count(name: str, seconds: float, **kinds) -> None:
        compiled.append(name)

    state = {f"bias{n}": jax.device_put(np.zeros(80 + 8 * n, np.float32), _sharding(8, P())) for n in range(20)}
    checkpointer = _checkpointer(tmp_path)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        checkpointer.save(1, state, data_state={}, meta={})
        checkpointer.close()
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert sum("backend_compile" in name for name in compiled) < 20, "one for each of eight slices would be 160"


def test_a_reader_leaves_alone_what_is_being_saved(tmp_path):
    checkpointer = _checkpointer(tmp_path)
    checkpointer.save(1, _state(), data_state={}, meta={})
    checkpointer.wait()
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    reader = _checkpointer(tmp_path, read_only=True)
    assert reader.latest_step() == 1
    jax.tree.map(np.testing.assert_array_equal, reader.restore(1, _abstract(_state(), 8))[0], _state())
    reader.close()
    assert (tmp_path / "2.orbax-checkpoint-tmp").exists()
    again = _checkpointer(tmp_path)
    assert not (tmp_path / "2.orbax-checkpoint-tmp").exists(), "a run that starts again removes it before it goes on"
    again.close()
    checkpointer.close()


def test_other_files_beside_the_steps_are_left_alone(tmp_path):
    (tmp_path / "best" / "5").mkdir(parents=True)
    (tmp_path / ".owner.json").write_text("{}")
    checkpointer = _checkpointer(tmp_path, keep_last=1)
    for step in (1, 2):
        assert checkpointer.save(step, _state(), data_state={}, meta={})
    checkpointer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".owner.json", "2", "best"]
    assert find_checkpoint(tmp_path).name == "2"


def test_a_save_that_cannot_fit_is_not_begun(tmp_path, monkeypatch, caplog):
    state = _state(columns=1013)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    checkpointer = _checkpointer(tmp_path, max_save_failures=2)
    monkeypatch.setattr(storage, "free_bytes", lambda folder: num_bytes // 2)
    assert not checkpointer.save(1, state, data_state={}, meta={})
    assert "saving step 1 failed" in caplog.text and f"no room in {tmp_path}: the arrays take" in caplog.text
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(storage, "free_bytes", lambda folder: None)  # a bucket
    assert checkpointer.save(2, state, data_state={}, meta={})
    checkpointer.close()
    assert checkpointer.last_good == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_a_preemption_notice_until_the_end(tmp_path, number):
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    checkpointer = _checkpointer(tmp_path, save_every_steps=100)
    checkpointer.catch_stops()
    assert not checkpointer.reached_preemption(3) and not checkpointer.should_save(3)
    os.kill(os.getpid(), number)
    assert checkpointer.reached_preemption(4) and checkpointer.should_save(4)
    assert checkpointer.save(4, _state(), data_state={}, meta={})
    assert not checkpointer.should_save(4)
    checkpointer.close()
    assert checkpointer.latest_step() == 4
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_find_checkpoint_at_every_level(saved, tmp_path, monkeypatch):
    step = saved / "checkpoints" / "7"
    for path in (saved, saved / "checkpoints", step):
        assert str(find_checkpoint(path)) == str(step)
    monkeypatch.chdir(saved.parent)
    assert str(find_checkpoint(saved.name)) == str(step), "relative paths"
    with pytest.raises(CheckpointError, match=f"inside a checkpoint: pass {step}$"):
        find_checkpoint(step / "state")
    with pytest.raises(CheckpointError, match="does not exist"):
        find_checkpoint(tmp_path / "nowhere")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="found: metrics.jsonl.*pass a workdir"):
        find_checkpoint(tmp_path)
