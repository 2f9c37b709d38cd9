"""Eight CPU devices for the whole suite; set before jax is imported anywhere."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("PJRT_NPROC", "16")  # fewer threads than devices deadlock at collectives
_flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl flags


@pytest.fixture(scope="session")
def devices():
    """The eight fake CPU devices."""
    found = jax.devices()
    assert len(found) == 8, f"expected 8 CPU devices, found {len(found)}"
    return found
