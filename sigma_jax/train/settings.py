"""What a run is asked for besides its task, as typed values: the trainer's part of a config."""

import dataclasses

from sigma_jax.runtime.durations import Duration


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule; the three learning rates are for 256 videos and are scaled by the batch.

    milestones: epochs from which the rate is multiplied by milestone_factor, in place of the cosine; () for the cosine.
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
    """When the state is saved, and how many saves are kept: the newest, and for ever every `keep_every`."""

    save_every: Duration
    keep_every: Duration
    keep_last: int = 2


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """A run's seed, batches (of videos, global), length, and the settings of its parts.

    max_nonfinite_run: steps in a row without a finite loss after which the run stops, 0 for never.
    """

    seed: int
    batch_size: int
    max_batch_per_device: int
    total: Duration
    log_every: Duration
    optim: OptimizerSettings
    checkpoint: CheckpointSettings
    max_nonfinite_run: int = 20
