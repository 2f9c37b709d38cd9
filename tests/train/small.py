"""A pre-training task small enough to compile in a second or two, and whole configs at the size of the test data."""

import dataclasses

import jax
import numpy as np

from sigma_jax.models.sizes import TeacherSize, VideoSize
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.tasks.pretrain import PretrainTask, SigmaSettings
from sigma_jax.train.program import Program
from sigma_jax.train.setup import Run

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


SHRINK = {  # a config at the size of the test data: 8 frames of 32x32, 48 records
    "model.size": "tiny",
    "model.num_frames": "4",
    "model.image_size": "32",
    "model.tube_size": "2,8,8",
    "objective.teacher": "tiny",
    "objective.num_prototypes": "13",
    "batch_size": "8",
    "total_steps": "2",
    "checkpoint.save_every_steps": "2",
    "checkpoint.keep_every_steps": "0",
    "log_every_steps": "1",
    "data.num_workers": "0",
    "data.frame_stride": "1",
}


def shrunk(spec: str, **changes):
    """A config at the size of the test data, without the monitor of segmentation, which takes as long as training."""
    config, overrides = load_config(spec), dict(SHRINK)
    if "warmup_epochs" in config.optim or "warmup_percent" in config.optim:
        overrides["optim.warmup_steps"] = "1"
    if "every_steps" in config.evals.get("segmentation", ()):
        overrides["evals.segmentation.every_steps"] = "0"
    return apply_overrides(config, overrides | changes)


def with_program(run: Run, program: Program, **plan) -> Run:
    """A run whose program is one that is traced and compiled already, with other lengths in its plan."""
    program = dataclasses.replace(program, plan=dataclasses.replace(program.plan, **plan))
    return dataclasses.replace(run, program=program, init_state=program.init_state)
