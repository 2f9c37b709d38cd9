"""The plan says aloud what cannot work, with numbers, before anything is compiled."""

import dataclasses

import pytest

from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tasks.pretrain import PretrainTask
from sigma_jax.train.plan import memory_of, resolve_plan
from sigma_jax.train.program import build_program
from sigma_jax.train.setup import build_task, train_settings
from tests.train.small import small_task

GIB = 2**30


def plan_of(devices, **overrides):
    config = apply_overrides(load_config("configs/k400.py:size=B,target=dino"), overrides)
    return resolve_plan(train_settings(config), build_task(config, devices), 240_436)


def warning(plan) -> str:
    return " ".join(line for line in plan.describe() if "NOT FIT" in line)


def test_a_batch_that_cannot_fit_is_named_with_one_that_does(devices):
    plan = dataclasses.replace(plan_of(devices), memory_bytes_per_device=16 * GIB)
    assert plan.micro_batch_per_device == 80
    text = warning(plan)
    assert "16.0 GiB there" in text
    clips = int(text.split("max_batch_per_device=")[1].split()[0])
    state = plan.state_bytes_per_device
    assert state + clips * plan.activation_bytes_per_device / 80 <= 16 * GIB < state + plan.activation_bytes_per_device
    assert not warning(dataclasses.replace(plan, memory_bytes_per_device=141 * GIB))


@pytest.mark.parametrize("clips", [0, -4])
def test_a_batch_needs_a_clip(clips):
    with pytest.raises(InvalidValue, match=f"batch_size={clips}: expected at least 1 clip"):
        train_settings(apply_overrides(load_config("configs/demo.py"), {"batch_size": str(clips)}))


def test_a_model_that_cannot_fit(devices):
    plan = dataclasses.replace(plan_of(devices), memory_bytes_per_device=GIB)
    assert "alone are too large" in warning(plan)


def test_plan_shapes_and_first_state_share_one_trace(monkeypatch):
    traces, init = [], PretrainTask.init
    monkeypatch.setattr(PretrainTask, "init", lambda self, key: traces.append(key) or init(self, key))
    config = apply_overrides(load_config("configs/k400.py"), {"batch_size": "3"})
    task = small_task(projection_widths=(11, 5))  # no other test has traced it
    settings = train_settings(config)
    program = build_program(settings, task, resolve_plan(settings, task, 30))
    program.init_state.lower()
    assert len(traces) == 1


def test_memory_of_a_cpu_is_its_share(devices):
    assert memory_of(devices[0]) == memory_of(devices[1]) > 0


@pytest.mark.parametrize("count,accumulation", [(1, 5), (2, 4), (4, 2), (8, 1)])
def test_the_global_batch_is_kept_and_accumulation_said_aloud(devices, count, accumulation):
    plan = plan_of(devices[:count])
    assert plan.batch_size == 640 and plan.accumulation == accumulation
    said = [line for line in plan.describe() if "does not enlarge the Sinkhorn batch" in line]
    assert len(said) == (accumulation > 1)
    assert plan.sinkhorn_tokens == 640 // accumulation * 1408
    assert plan.peak_lr == pytest.approx(1.5e-4 * 640 / 256)


@pytest.mark.parametrize("num_prototypes,queue_tokens,warned", [(1000, 0, False), (1001, 0, True), (1500, 600, False)])
def test_fewer_tokens_than_prototypes_are_a_warning(devices, num_prototypes, queue_tokens, warned):
    plan = dataclasses.replace(
        plan_of(devices), sinkhorn_tokens=1000, num_prototypes=num_prototypes, queue_tokens=queue_tokens
    )
    assert any(line.startswith("WARNING: with 1 tokens per prototype") for line in plan.describe()) == warned
