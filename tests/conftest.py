"""Eight CPU devices and quick compilation for the whole suite, set before jax is imported; data shared by tests."""

import atexit
import ctypes
import gc
import os
import shutil
import sys
import tempfile
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products; threads would wait for a busy machine
os.environ.setdefault("PJRT_NPROC", "16")  # fewer threads than devices deadlock at collectives
_flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in _flags:
    _flags += " --xla_force_host_platform_device_count=8"
if "optimization_level" not in _flags and "cpu" in os.environ["JAX_PLATFORMS"].split(","):
    _flags += " --xla_backend_optimization_level=0"  # tests compile much and compute little: four times quicker
    if version("jaxlib").startswith("0.10."):  # later ones do not know this flag, and stop at unknown ones
        _flags += " --xla_cpu_use_fusion_emitters=false"  # twice as quick again, without optimisation
        _flags += " --xla_cpu_parallel_codegen_split_count=1"  # both processors are at work already
os.environ["XLA_FLAGS"] = _flags.strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # for the commands that tests start
    _cache = tempfile.mkdtemp(prefix="sigma_jax_programs_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_enable_compilation_cache", False)  # here, keeping a program takes longer than it saves


def pytest_collection_finish():
    """What imports and collection made stays to the end: the garbage collector need not search it again and again."""
    gc.freeze()


@pytest.fixture(scope="session")
def devices():
    """The eight fake CPU devices."""
    found = jax.devices()
    assert len(found) == 8, f"expected 8 CPU devices, found {len(found)}"
    return found


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory):
    """Rendered shapes, 8 frames of 32x32: 48 unlabelled in train, 120 labelled in bank, 80 in val, 16 masked."""
    from sigma_jax.tools import synthetic

    out = tmp_path_factory.mktemp("shapes")
    assert synthetic.main([f"--out={out}", "--train=48", "--bank=120", "--val=80", "--masked=16", "--workers=0"]) == 0
    return out


@pytest.fixture(scope="session")
def demo_run(shapes_dir, tmp_path_factory, devices):
    """A finished run of two steps, configs/demo.py at the size of the shapes; what changes its folder copies it."""
    from sigma_jax.train import loop, setup
    from tests.train.small import shrunk

    run = setup.build(shrunk("configs/demo.py"), tmp_path_factory.mktemp("demo") / "run", str(shapes_dir))
    loop.train(run, command=["the", "command line"])
    return run


@pytest.fixture(scope="module", autouse=True)
def memory_stays_small():
    """A process that has grown large lets go of what it traced and compiled; later modules trace much of it anew."""
    yield
    if _resident_bytes() > 1.2 * 2**30:
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> float:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux: unknown, so it may be large
        return float("inf")
