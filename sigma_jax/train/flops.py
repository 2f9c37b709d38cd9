"""Model FLOPs of a pre-training step, and the share of the device's peak that they reach (MFU).

Only matrix products count. A trained one costs three times its forward pass (twice where its input needs no gradient),
a frozen one once; recomputation never counts. Counted is the method as published: all tubes embedded, every decoder
block over all tubes. Our step leaves some of that out without changing the result, which raises its clips per second,
not its FLOPs, so the same number serves any other program that computes SIGMA.

Letters: N tubes, V visible, M hidden, D width, K prototypes, E target width.
"""

from typing import Any

# Dense bf16 peak of one device, FLOP/s, by a part of jax's device_kind (vendors' data sheets; first match wins).
PEAKS = (
    ("H200", 989e12),
    ("H100", 989e12),
    ("GH200", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("V100", 125e12),
    ("T4", 65e12),
    ("TPU v6", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 123e12),
)


def peak_flops(device_kind: str) -> float | None:
    """FLOP/s of a device by its `device_kind`, None where unknown (every CPU)."""
    return next((peak for name, peak in PEAKS if name in device_kind), None)


def mfu(flops_per_clip: float, clips_per_s: float, devices: list) -> float | None:
    """Share of the devices' joint peak in [0, 1], None where the peak is unknown."""
    peak = peak_flops(devices[0].device_kind)
    return flops_per_clip * clips_per_s / (peak * len(devices)) if peak else None


def _block(tokens: int, width: int) -> int:
    """Multiply-adds of one transformer block, MLP ratio 4: q, k, v, output, MLP, and the two attention products."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def model_flops(task: Any) -> dict[str, float]:
    """FLOPs of one clip in one training step, by part; their sum is the model's.

    Args:
      task: a PretrainTask (its grid, size, teacher and objective).
    """
    grid, size = task.grid, task.size
    tubes, visible, hidden, target = grid.num_tubes, grid.num_visible, grid.num_masked, task.target_width
    decoder = visible * size.width * size.decoder_width + hidden * size.decoder_width * target
    decoder += size.decoder_depth * _block(tubes, size.decoder_width)
    macs = {
        "embed": 2 * tubes * grid.tube_dim * size.width,
        "encoder": 3 * size.depth * _block(visible, size.width),
        "decoder": 3 * decoder,
        "teacher": _teacher(task) if task.source == "features" else 0,
        "projection": 0,
        "scores": 0,
    }
    trains_projection = task.objective != "l2" and task.source == "pixels"
    if trains_projection:
        widths = (grid.tube_dim, *task.projection_widths)
        layers = [hidden * a * b for a, b in zip(widths, widths[1:], strict=False)]
        macs["projection"] = 3 * sum(layers) - layers[0]
    if task.objective == "sigma":
        # Two products forward; backward one each (prototypes learn from one side, features from the other), and one
        # more where the projection network learns too.
        macs["scores"] = (4 + trains_projection) * hidden * task.sigma.num_prototypes * target
    return {part: 2.0 * count for part, count in macs.items()}


def _teacher(task: Any) -> int:
    teacher, (height, width) = task.teacher, task.grid.image_shape
    patches = (height // teacher.patch_size) * (width // teacher.patch_size)
    tokens = patches + 1 + teacher.num_registers
    embed = patches * 3 * teacher.patch_size**2 * teacher.width
    return task.grid.num_steps * (embed + teacher.depth * _block(tokens, teacher.width))
