"""After the first step nothing is compiled again, only log lines wait for the device, the state is donated."""

import dataclasses

import jax
import pytest
from jax._src.array import ArrayImpl

from sigma_jax.train import loop, setup
from tests.train.small import shrunk, with_program

STEPS, LOG_EVERY = 12, 6


@pytest.fixture(scope="module")
def fetches(tmp_path_factory, shapes_dir, demo_run):
    """Of a short real run: host fetches after each step, programs compiled in each, whether each state was donated."""
    config = shrunk("configs/demo.py", **{"evals.knn.every_steps": "0"})
    run = setup.build(config, tmp_path_factory.mktemp("dispatch"), str(shapes_dir))
    lengths = {"total_steps": STEPS, "log_every_steps": LOG_EVERY, "save_every_steps": 1000}
    run = with_program(run, demo_run.program, **lengths)
    counts, programs, donated, original, step = [0], [0], [], ArrayImpl._value, run.program.step

    def counting_step(state, *arguments):
        counts.append(0)
        programs.append(0)
        result = step(state, *arguments)
        donated.append(jax.tree.leaves(state.params)[0].is_deleted())
        return result

    def counted(array):
        counts[-1] += 1
        return original.fget(array)

    def count_program(event, *_, **__):
        programs[-1] += event == "/jax/core/compile/backend_compile_duration"

    run = dataclasses.replace(run, program=dataclasses.replace(run.program, step=counting_step))
    jax.monitoring.register_event_duration_secs_listener(count_program)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayImpl, "_value", property(counted))
        state = loop.train(run)
        assert int(state.step) == STEPS and counts[-1] > 0  # the counter sees a fetch
    before = programs[-1]
    jax.jit(lambda x: x + LOG_EVERY)(1)
    assert programs[-1] == before + 1  # and a compilation
    jax.monitoring.unregister_event_duration_listener(count_program)
    return counts[1:-1], programs[1:-1], donated  # the last count would include the final checkpoint


def test_nothing_is_compiled_after_the_first_line_of_the_log(fetches):
    """What reads the first metrics is compiled with the second step."""
    assert sum(fetches[1][2:]) == 0, fetches[1]


def test_only_steps_that_log_wait_for_the_device(fetches):
    """The first step and every sixth are written one step later."""
    waited = [step for step, count in enumerate(fetches[0], start=1) if count]
    assert waited and set(waited) <= {1, 2, LOG_EVERY, LOG_EVERY + 1}, fetches[0]


def test_the_state_is_donated(fetches):
    assert fetches[2] == [True] * STEPS
