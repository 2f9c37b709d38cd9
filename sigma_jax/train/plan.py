"""The plan of a run: every number that follows from config, devices and data, computed before the first step."""

import dataclasses
import functools
import math
import os

import jax

from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.sharding import traced_on
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.base import Task
from sigma_jax.train.schedule import scaled_lr
from sigma_jax.train.settings import TrainSettings
from sigma_jax.train.state import initial_params


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """Counts, durations in steps and learning rates of a run; `describe` puts them into sentences."""

    mesh: dict[str, int]  # axis -> devices
    num_devices: int
    num_processes: int
    platform: str
    num_records: int  # of the training split
    batch_size: int  # videos per step, over all devices
    repeats: int  # augmented copies of each video in a batch
    micro_batch_per_device: int  # clips
    accumulation: int  # micro-batches per step
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    log_every_steps: int
    save_every_steps: int
    keep_every_steps: int  # checkpoints at multiples of it are never deleted; 0: none
    start_lr: float  # at the start of the warm-up
    peak_lr: float
    final_lr: float
    num_params: int
    tubes_visible: int  # per clip
    tubes_hidden: int  # per clip
    sinkhorn_tokens: int  # hidden tubes that are balanced together; 0 without Sinkhorn
    num_prototypes: int  # 0 for objectives without prototypes
    state_bytes_per_device: int  # estimate: parameters, moments, gradient
    activation_bytes_per_device: int  # estimate
    milestones: tuple[int, ...] = ()  # steps at which the rate is multiplied by milestone_factor; (): a cosine
    milestone_factor: float = 1.0
    queue_tokens: int = 0  # tokens of past batches in the feature queue
    queue_start: int = 0  # micro-batches before the queue is used
    memory_bytes_per_device: int | None = None  # None: unknown

    def describe(self) -> list[str]:
        """The plan in sentences."""
        clips = self.total_steps * self.batch_size * self.repeats
        copies = f" videos x {self.repeats} copies" if self.repeats > 1 else ""
        lines = [
            f"{self.num_devices} {self.platform} device(s) in {self.num_processes} process(es), mesh {self.mesh}",
            f"global batch {self.batch_size}{copies} = {self.num_devices} device(s) x "
            f"{self.micro_batch_per_device} clips x "
            f"{self.accumulation} micro-batch(es)",
            f"{self.num_records} records, {self.steps_per_epoch} steps per epoch, {self.total_steps} steps = "
            f"{self.total_steps / self.steps_per_epoch:.1f} epochs = {clips:,} clips",
            f"learning rate: {self.warmup_steps} steps up to {self.peak_lr:.3g}, then {self._decline()}",
            f"{self.num_params / 1e6:.1f} M parameters; per clip {self.tubes_visible} tubes visible, "
            f"{self.tubes_hidden} hidden",
            f"memory per device, estimated: {self.state_bytes_per_device / 2**30:.2f} GiB parameters, moments and "
            f"gradient, {self.activation_bytes_per_device / 2**30:.2f} GiB activations",
        ]
        needed = self.state_bytes_per_device + self.activation_bytes_per_device
        if self.memory_bytes_per_device and needed > self.memory_bytes_per_device:
            lines.append(self._does_not_fit(needed))
        if self.sinkhorn_tokens:
            ratio = self.sinkhorn_tokens / self.num_prototypes
            lines.append(
                f"Sinkhorn balances {self.sinkhorn_tokens:,} tokens over {self.num_prototypes} prototypes "
                f"({ratio:.1f} per prototype)"
            )
            ratio += self.queue_tokens / self.num_prototypes
            if ratio < 1:
                lines.append(
                    f"WARNING: with {ratio:.2g} tokens per prototype not every prototype can get one, and balanced "
                    "assignments mean little: take fewer prototypes (objective.num_prototypes), more clips at a time "
                    "(batch_size, max_batch_per_device), or a feature queue (objective.queue_batches)"
                )
            if self.accumulation > 1:
                lines.append(
                    f"gradient accumulation does not enlarge the Sinkhorn batch: it sees "
                    f"{self.batch_size // self.accumulation} clips at a time, not {self.batch_size}; "
                    "objective.queue_batches adds past features (launch/PRETRAIN.md)"
                )
            if self.queue_tokens:
                lines.append(
                    f"WARNING: a feature queue is on, which SIGMA was not published with: {self.queue_tokens:,} past "
                    f"tokens join Sinkhorn after {self.queue_start:,} micro-batches. If loss/lnK jumps towards 1 then, "
                    "start later or keep fewer"
                )
        return lines

    def _decline(self) -> str:
        if not self.milestones:
            return f"a cosine to {self.final_lr:.3g}"
        return f"times {self.milestone_factor:g} at steps {', '.join(map(str, self.milestones))}"

    def _does_not_fit(self, needed: int) -> str:
        text = (
            f"THIS DOES NOT FIT: {needed / 2**30:.1f} GiB needed, {self.memory_bytes_per_device / 2**30:.1f} GiB there"
        )
        left = self.memory_bytes_per_device - self.state_bytes_per_device
        clips = left * self.micro_batch_per_device // max(1, self.activation_bytes_per_device)
        if clips < 1:
            return (
                f"{text}; parameters and moments alone are too large: choose a smaller model, or split it (mesh.fsdp)"
            )
        return f"{text}; set max_batch_per_device={clips} or less, or compute.remat=full"


def memory_of(device: jax.Device) -> int | None:
    """Memory of a device in bytes (of a CPU device: its share of the machine's memory); None where unknown."""
    if device not in jax.local_devices():
        return None  # it belongs to another process, or is only described (runtime/topologies.py)
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")


def split_batch(batch_size: int, num_devices: int, max_per_device: int) -> tuple[int, int]:
    """(clips per device and micro-batch, micro-batches), with as few micro-batches as `max_per_device` clips allow.

    Raises:
      InvalidValue: the batch does not divide over the devices (the message names the nearest that do), or
        `max_per_device` is below 1.
    """
    if max_per_device < 1:
        raise InvalidValue(f"max_batch_per_device={max_per_device}: at least 1 clip must fit")
    if batch_size < 1 or batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        nearest = [n for n in (below, below + num_devices) if n > 0]
        raise InvalidValue(
            f"batch_size={batch_size} does not divide over {num_devices} devices: use one of {nearest}, "
            "or another number of devices"
        )
    per_device = batch_size // num_devices
    accumulation = next(
        a for a in range(1, per_device + 1) if per_device % a == 0 and per_device // a <= max_per_device
    )
    return per_device // accumulation, accumulation


def resolve_plan(settings: TrainSettings, task: Task, num_records: int) -> RunPlan:
    """The plan of a run on `num_records` videos. Raises InvalidValue where settings contradict each other."""
    mesh, optim, cost = task.mesh, settings.optim, task.cost
    batch_size, repeats = settings.batch_size, task.clips_per_video
    micro, accumulation = split_batch(batch_size * repeats, mesh.size, settings.max_batch_per_device)
    steps_per_epoch = max(1, num_records // batch_size)
    total_steps = settings.total.in_steps(steps_per_epoch)
    lengths = steps_per_epoch, total_steps
    init = traced_on(mesh, functools.partial(initial_params, task, settings.seed))  # as the run traces it
    num_params = num_numbers(jax.eval_shape(init))
    memory = num_bytes(jax.eval_shape(lambda: task.init_memory(micro * mesh.size)))
    return RunPlan(
        mesh=dict(mesh.shape),
        num_devices=mesh.size,
        num_processes=jax.process_count(),
        platform=mesh.devices.flat[0].platform,
        num_records=num_records,
        batch_size=batch_size,
        repeats=repeats,
        micro_batch_per_device=micro,
        accumulation=accumulation,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        warmup_steps=optim.warmup.in_steps(*lengths),
        log_every_steps=settings.log_every.in_steps(*lengths),
        save_every_steps=settings.checkpoint.save_every.in_steps(*lengths),
        keep_every_steps=settings.checkpoint.keep_every.in_steps(*lengths),
        start_lr=scaled_lr(optim.warmup_lr, batch_size),
        peak_lr=scaled_lr(optim.base_lr, batch_size),
        final_lr=scaled_lr(optim.min_lr, batch_size),
        milestones=tuple(round(epoch * steps_per_epoch) for epoch in optim.milestones),
        milestone_factor=optim.milestone_factor if optim.milestones else 1.0,
        num_params=num_params,
        tubes_visible=cost.tubes_visible,
        tubes_hidden=cost.tubes_hidden,
        sinkhorn_tokens=batch_size // accumulation * cost.tubes_hidden if cost.num_prototypes else 0,
        num_prototypes=cost.num_prototypes,
        queue_tokens=cost.queue_batches * micro * mesh.size * cost.tubes_hidden,
        queue_start=cost.queue_start,
        state_bytes_per_device=16 * num_params // mesh.shape["fsdp"] + memory // mesh.size,
        activation_bytes_per_device=micro * cost.activation_bytes,
        memory_bytes_per_device=memory_of(mesh.local_devices[0]) if mesh.local_devices else None,
    )


def num_bytes(shapes: Params) -> int:
    """Size in bytes of a tree of shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def num_numbers(shapes: Params) -> int:
    """Number of elements in a tree of shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
