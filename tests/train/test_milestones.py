"""The learning rate schedule with milestones, and the option that chooses it."""

import jax
import jax.numpy as jnp
import pytest

from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.train.program import schedule_of
from sigma_jax.train.schedule import steps_with_warmup
from sigma_jax.train.setup import plan_program


def test_a_milestone_counts_from_its_own_step_on():
    rate = steps_with_warmup(1.0, (10, 20), 0.1, 4, 0.2)
    assert [float(rate(step)) for step in (0, 2, 4, 9, 10, 19, 20)] == pytest.approx([0.2, 0.6, 1, 1, 0.1, 0.1, 0.01])
    jitted = jax.jit(rate)
    for step in (0, 3, 4, 10, 25):
        assert float(jitted(jnp.int32(step))) == pytest.approx(float(rate(step)), rel=1e-6)
    with pytest.raises(ValueError, match="expected ascending"):
        steps_with_warmup(1.0, (20, 10), 0.1)


def test_the_option_replaces_the_cosine():
    config = load_config("configs/severe.py:score=charades,size=tiny")
    steps = {"optim.milestones": "1,2", "optim.warmup_epochs": "0.5", "data.num_classes": "5", "total_epochs": "3"}
    plain = {name: value for name, value in steps.items() if name != "optim.milestones"}
    rates = []
    for overrides in (plain, steps):
        plan = plan_program(apply_overrides(config, overrides), 3200, jax.devices()[:1]).plan
        rates.append([float(schedule_of(plan)(step)) for step in (99, 100, 200, 299)])
    peak = plan.peak_lr
    assert rates[1] == pytest.approx([peak, 0.1 * peak, 0.01 * peak, 0.01 * peak])
    assert rates[0] != pytest.approx(rates[1]) and plan.milestones == (100, 200)
    assert any("times 0.1 at steps 100, 200" in line for line in plan.describe())
