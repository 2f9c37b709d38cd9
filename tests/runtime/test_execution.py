"""A step on a CPU takes the memory that the step before freed, and no fresh pages from the system."""

import os
import subprocess
import sys

import pytest

FAULTS_OF_TEN_STEPS = """
import resource, sys
import jax, jax.numpy as jnp
from sigma_jax.runtime import compilation, execution

execution.choose_platform("cpu")
if sys.argv[1] == "given back":
    compilation.keep_freed_memory = lambda: None
step = compilation.CompiledOnce(jax.jit(lambda x: x + 1))
x = jnp.ones(2**24)  # 64 MiB: a smaller buffer may be kept in any case
for _ in range(2):
    step(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is glibc")
def test_freed_buffers_are_used_again():
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}

    def faults(memory: str) -> int:
        command = [sys.executable, "-c", FAULTS_OF_TEN_STEPS, memory]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    pages = 2**26 // os.sysconf("SC_PAGE_SIZE")  # of the result of one step
    assert faults("kept") < 5 * pages < faults("given back")
