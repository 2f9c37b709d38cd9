"""The trainer's part of a config as typed values: seed, batch, length, optimizer, checkpoints."""

import dataclasses

from sigma_jax.runtime.durations import Duration


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule.

    base_lr, min_lr, warmup_lr: peak, last and first learning rate for 256 videos; scaled by batch_size / 256.
    clip_norm: largest global gradient norm; None for no clipping. ema_decay: of averaged weights; None for none.
    milestones: epochs at which the rate is multiplied by milestone_factor; () for a cosine.
    """

    base_lr: float
    min_lr: float
    warmup_lr: float
    warmup: Duration
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    clip_norm: float | None = None
    ema_decay: float | None = None
    milestones: tuple[float, ...] = ()
    milestone_factor: float = 0.1


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """When the state is saved.

    save_every: between checkpoints. keep_every: between those that are never deleted. keep_last: newest ones kept.
    """

    save_every: Duration
    keep_every: Duration
    keep_last: int = 2


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """A run's seed, batch, length and intervals, and the settings of optimizer and checkpoints.

    batch_size: videos per step, over all devices. max_batch_per_device: clips; a larger share is split into
    micro-batches by gradient accumulation. max_nonfinite_run: steps in a row without a finite loss and gradient after
    which the run stops; 0 for never.
    """

    seed: int
    batch_size: int
    max_batch_per_device: int
    total: Duration
    log_every: Duration
    optim: OptimizerSettings
    checkpoint: CheckpointSettings
    max_nonfinite_run: int = 20
