"""What is initialised, minimised and frozen: the Task protocol, and pre-training.

Letters: B clips, F frames, M hidden tubes, E target width.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import Mesh

from sigma_jax.models.dino import DinoVit, tube_features
from sigma_jax.models.pretrain import Compute, PretrainModel
from sigma_jax.models.prototypes import constrain
from sigma_jax.models.sizes import TEACHER_SIZES, VIDEO_SIZES, TeacherSize, VideoSize, lookup
from sigma_jax.objective.feature_queue import empty_queue
from sigma_jax.objective.reconstruction import reconstruction_loss, target_spread
from sigma_jax.objective.sigma import sharded_symmetric_loss
from sigma_jax.objective.targets import feature_targets, pixel_targets, teacher_frames
from sigma_jax.ops.masking import sample_mask
from sigma_jax.ops.sinkhorn import Sweeps, platform_sweeps
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import Moment, stream
from sigma_jax.runtime.sharding import BATCH_AXES

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class TaskCost:
    """What a plan says about a task. activation_bytes: rough, per clip, kept for a backward pass without remat."""

    tubes_visible: int
    tubes_hidden: int
    num_prototypes: int  # 0 without Sinkhorn
    activation_bytes: int


class Task(Protocol):
    """One trainer serves every task through these."""

    batch_keys: tuple[str, ...]  # what of a host batch goes to the device
    cost: TaskCost

    def init(self, key: jax.Array) -> Any:
        """Fresh parameters; run under jit or eval_shape."""

    def init_frozen(self, key: jax.Array) -> Any:
        """Parameters that are used but never trained or checkpointed; {} where there are none."""

    def init_memory(self, clips: int) -> Any:
        """Arrays that the task remembers from (micro-)batch of `clips` clips to batch, checkpointed; {}: nothing."""

    def loss(self, params: Any, frozen: Any, batch: Batch, seed: int, step: Moment) -> tuple[jax.Array, Metrics]:
        """Scalar loss and metrics of a global batch; where `batch` has 'memory', the metrics have the next one."""

    def constrain(self, params: Any) -> Any:
        """Applied before each step, outside the gradient."""

    def trainable(self, path: str) -> bool:
        """Whether the parameter at 'a/b/c' is updated."""


@dataclasses.dataclass(frozen=True)
class SigmaSettings:
    """Numbers of the symmetric loss (method.md sections 3 and 4)."""

    num_prototypes: int = 3000
    epsilon: float = 0.05
    num_iters: int = 10
    temperature: float = 0.1
    assignments: str = "hard"
    sweeps: Sweeps = Sweeps()
    queue_batches: int = 0
    queue_start: int = 0

    def __post_init__(self):
        if self.queue_batches < 0 or self.queue_start < 0:
            raise InvalidValue(
                f"queue_batches={self.queue_batches}, queue_start={self.queue_start}: expected 0 or more"
            )
        if self.num_prototypes < 2:
            raise InvalidValue(f"num_prototypes={self.num_prototypes}: at least 2 are needed to tell anything apart")


# Numbers kept for the backward pass per token and unit of width in one block, without remat: norms, qkv, attention
# output, two MLP widths before and after GELU, residuals.
SAVED_PER_TOKEN = 24


def block_bytes(token_widths: int, compute: Compute) -> int:
    """Bytes that blocks keep for the backward pass; token_widths: sum over blocks of tokens x width."""
    return SAVED_PER_TOKEN * jnp.dtype(compute.dtype).itemsize * token_widths


TARGETS = {  # name: (what is regressed or assigned, objective)
    "mlp": ("pixels", "sigma"),
    "dino": ("features", "sigma"),
    "pixel": ("pixels", "l2"),
    "feature": ("features", "l2"),
    "learned": ("pixels", "learned_l2"),
}


@dataclasses.dataclass(frozen=True)
class PretrainTask:
    """SIGMA-MLP, SIGMA-DINO, the VideoMAE control, feature regression and the collapse control, by `target`."""

    mesh: Mesh
    grid: TubeGrid
    size: VideoSize
    target: str = "mlp"
    sigma: SigmaSettings = SigmaSettings()
    projection_widths: tuple[int, ...] = (1024, 1024, 512, 256)
    teacher: TeacherSize | None = None
    normalize_targets: bool = True
    mask_kind: str = "tube"
    positions: str = "sincos_1d"
    compute: Compute = Compute()

    batch_keys = ("video",)

    @property
    def cost(self) -> TaskCost:
        """Encoder over visible tubes, decoder over all, and the two fp32 score matrices."""
        grid, size = self.grid, self.size
        num_prototypes = self.sigma.num_prototypes if self.objective == "sigma" else 0
        tokens = size.depth * grid.num_visible * size.width + size.decoder_depth * grid.num_tubes * size.decoder_width
        saved = block_bytes(tokens, self.compute) + 4 * 2 * grid.num_masked * num_prototypes
        return TaskCost(grid.num_visible, grid.num_masked, num_prototypes, saved)

    @property
    def source(self) -> str:
        """'pixels' or 'features'."""
        return lookup(TARGETS, self.target, "target")[0]

    @property
    def objective(self) -> str:
        """'sigma', 'l2', or 'learned_l2' (L2 on the projections of a network trained with it: collapses)."""
        return lookup(TARGETS, self.target, "target")[1]

    @property
    def target_width(self) -> int:
        """E, the width of predictions."""
        if self.source == "features":
            return self.teacher.width
        return self.grid.tube_dim if self.objective == "l2" else self.projection_widths[-1]

    @property
    def model(self) -> PretrainModel:
        projects = self.source == "pixels" and self.objective != "l2"
        return PretrainModel(
            self.grid,
            self.size,
            self.target_width,
            num_prototypes=self.sigma.num_prototypes if self.objective == "sigma" else 0,
            projection_widths=self.projection_widths if projects else (),
            positions=self.positions,
            compute=self.compute,
        )

    def init(self, key: jax.Array) -> Any:
        grid = self.grid
        video = jnp.zeros((1, grid.num_frames, *grid.image_shape, 3), jnp.uint8)
        idx = jnp.arange(grid.num_tubes)[None]
        return self.model.init(key, video, idx[:, : grid.num_visible], idx[:, grid.num_visible :])["params"]

    def init_frozen(self, key: jax.Array) -> Any:
        if self.source != "features":
            return {}
        image = jnp.zeros((1, *self.grid.image_shape, 3), jnp.uint8)
        return self._teacher_model.init(key, image)["params"]

    def init_memory(self, clips: int) -> Any:
        if self.objective != "sigma" or not self.sigma.queue_batches:
            return {}
        return empty_queue(self.sigma.queue_batches, clips * self.grid.num_masked, self.target_width)

    def constrain(self, params: Any) -> Any:
        return constrain(params)

    def trainable(self, path: str) -> bool:
        return True

    def loss(self, params: Any, frozen: Any, batch: Batch, seed: int, step: Moment) -> tuple[jax.Array, Metrics]:
        """One forward pass, in the paper's order.

        Args:
          batch: 'video' [B F H W 3]; optional 'visible_idx' and 'masked_idx' (else drawn from (seed, step)); optional
            'teacher_features' [B N E] (else computed by the frozen teacher), 'memory' (the feature queue).
        """
        video = batch["video"]
        # 1) Hide tubes.
        if "masked_idx" in batch:
            visible_idx, masked_idx = batch["visible_idx"], batch["masked_idx"]
        else:
            visible_idx, masked_idx = sample_mask(stream(seed, "mask", step), len(video), self.grid, self.mask_kind)
        # 2) What should be known about the hidden ones.
        targets = self.targets(frozen, batch, masked_idx)
        # 3) What the video model says about them.
        variables = {"params": params}
        predictions = self.model.apply(variables, video, visible_idx, masked_idx)
        if self.objective == "l2":
            return reconstruction_loss(predictions, targets), {}
        projections = self.model.apply(variables, targets, method="project")
        if self.objective == "learned_l2":  # nothing keeps the two from agreeing on a constant
            return reconstruction_loss(predictions, projections), {"target_spread": target_spread(projections)}
        # 4) Assign both to prototypes; each predicts the other's assignment.
        settings = dict(vars(self.sigma))
        del settings["num_prototypes"], settings["queue_batches"]
        objective = sharded_symmetric_loss(self.mesh, BATCH_AXES, **settings)
        loss, metrics, queue = objective(predictions, projections, params["prototypes"], batch.get("memory"))
        return loss, metrics if queue is None else metrics | {"memory": queue}

    def targets(self, frozen: Any, batch: Batch, masked_idx: jax.Array) -> jax.Array:
        """[B M P] normalised pixels or [B M E] normalised teacher features; no gradient."""
        video = batch["video"]
        if self.source == "pixels":
            return pixel_targets(video, masked_idx, self.grid, normalize=self.normalize_targets)
        features = batch.get("teacher_features")
        if features is None:
            images = teacher_frames(video, self.grid.tube_size[0])
            tokens = self._teacher_model.apply({"params": frozen}, images)
            maps = tube_features(tokens, self.teacher, self.grid.shape[1:])
            features = rearrange(maps, "(B t) n E -> B (t n) E", B=len(video))
        return feature_targets(jax.lax.stop_gradient(features), masked_idx)

    @property
    def _teacher_model(self) -> DinoVit:
        return DinoVit(self.teacher, dtype=self.compute.dtype, backend=self.compute.backend)


def pretrain_task(config: Any, mesh: Mesh, compute: Compute) -> PretrainTask:
    """The pre-training task that a config asks for; every unknown name is an error before anything is compiled."""
    model, objective = config.model, config.objective
    lookup(TARGETS, objective.target, "target")
    if objective.queue_batches and TARGETS[objective.target][1] != "sigma":
        raise InvalidValue(
            f"objective.queue_batches={objective.queue_batches}: target {objective.target!r} has no Sinkhorn; use 0"
        )
    needs_teacher = TARGETS[objective.target][0] == "features"
    return PretrainTask(
        mesh=mesh,
        grid=TubeGrid(model.num_frames, model.image_size, tuple(model.tube_size), objective.mask_ratio),
        size=lookup(VIDEO_SIZES, model.size, "model size"),
        target=objective.target,
        sigma=SigmaSettings(
            objective.num_prototypes,
            objective.epsilon,
            objective.num_iters,
            objective.temperature,
            objective.assignments,
            platform_sweeps(mesh.devices.flat[0].platform, objective.sweep_dtype),
            objective.queue_batches,
            objective.queue_start_batches,
        ),
        projection_widths=tuple(objective.projection_widths),
        teacher=lookup(TEACHER_SIZES, objective.teacher, "teacher") if needs_teacher else None,
        normalize_targets=objective.normalize_targets,
        mask_kind=objective.mask_kind,
        positions=model.positions,
        compute=compute,
    )
