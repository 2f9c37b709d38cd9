"""Model FLOPs utilisation (MFU): a step's model FLOPs per second as a share of the devices' peak."""

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
    """MFU in [0, 1] of all `devices`, which are alike; None where their peak is unknown.

    Args:
      flops_per_clip: model FLOPs of a training step per clip.
      clips_per_s: over all devices.
    """
    peak = peak_flops(devices[0].device_kind)
    return flops_per_clip * clips_per_s / (peak * len(devices)) if peak else None
