"""The collapse control: L2 on targets that are learned together with the predictions loses what the targets say."""

import jax
import numpy as np
import optax
import pytest

from sigma_jax.datasets.synthetic import render_clips
from sigma_jax.models.sizes import VIDEO_SIZES
from sigma_jax.objective.reconstruction import target_spread
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.tasks.pretrain import PretrainTask
from sigma_jax.train.state import new_state
from sigma_jax.train.step import train_step


def _task(target: str, devices) -> PretrainTask:
    return PretrainTask(
        mesh=jax.sharding.Mesh(np.array(devices[:1]).reshape(1, 1), make_mesh().axis_names),
        grid=TubeGrid(8, 32, (2, 8, 8), 0.75),
        size=VIDEO_SIZES["tiny"],
        target=target,
        projection_widths=(64, 32),
        positions="sincos_3d",
    )


@pytest.fixture(scope="module")
def video():
    return render_clips(0, 0, 2)[0]


def _train(task: PretrainTask, video: np.ndarray, num_steps: int) -> list[dict[str, float]]:
    optimizer = optax.adam(3e-3)
    state = jax.jit(lambda key: new_state(task.init(key), optimizer, {}))(jax.random.key(0))
    step = jax.jit(train_step(task, optimizer, seed=0, accumulation=1))
    rows = []
    for _ in range(num_steps):
        state, metrics = step(state, {}, {"video": video})
        rows.append({name: float(value) for name, value in metrics.items()})
    return rows


def test_spread_of_learned_targets_shrinks_with_the_loss(video, devices):
    rows = _train(_task("learned", devices), video, 120)
    assert rows[0]["target_spread"] > 0.02
    assert rows[-1]["target_spread"] < 0.2 * rows[0]["target_spread"]
    assert rows[-1]["loss"] < 0.1 * rows[0]["loss"]  # a falling loss alone proves nothing


def test_learned_target_trains_projection_and_video_model_together(video, devices):
    """No stop-gradient saves the control: both sides of the regression move."""
    task = _task("learned", devices)
    params = jax.jit(task.init)(jax.random.key(0))
    assert "prototypes" not in params

    @jax.jit
    def norms(params):
        grads = jax.grad(lambda p: task.loss(p, {}, {"video": video}, 0, 0)[0])(params)
        return {part: optax.tree.norm(grads[part]) for part in ("encoder", "decoder", "projection")}

    for part, norm in norms(params).items():
        assert norm > 0, part


def test_target_spread_is_the_mean_deviation_over_clips_and_tubes():
    constant = np.ones((2, 3, 4), np.float32)
    assert float(target_spread(constant)) == 0
    constant[0, :, 0] = -1  # half of the six tubes differ by 2 in one of four numbers
    np.testing.assert_allclose(float(target_spread(constant)), 0.25, rtol=1e-6)
