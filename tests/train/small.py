"""A pre-training task small enough to compile in a second or two; prime-ish sizes."""

import jax
import numpy as np

from sigma_jax.models.sizes import TeacherSize, VideoSize
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.tasks.pretrain import PretrainTask, SigmaSettings

GRID = TubeGrid(4, 16, (2, 4, 4), 0.6)
SIZE = VideoSize(18, 2, 3, 10, 2, 2)


def small_task(mesh=None, target="mlp", **changes) -> PretrainTask:
    """Width 18 encoder, 2 + 2 blocks, 11 prototypes."""
    settings = {
        "mesh": mesh or make_mesh(devices=jax.devices()[:1]),
        "grid": GRID,
        "size": SIZE,
        "target": target,
        "sigma": SigmaSettings(num_prototypes=11),
        "projection_widths": (13, 7),
        "teacher": TeacherSize(14, 2, 2, patch_size=4, position_grid=(4, 4)),
    }
    return PretrainTask(**{**settings, **changes})


def small_video(batch=8, seed=0) -> np.ndarray:
    """uint8 [B F y x 3] with structure to predict."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, GRID.num_frames, *GRID.image_shape, 3), np.uint8)
