"""Bytes that a device must move per clip in one training step, by part: what a compiled step is compared with.

Every array is read and written once per operation that cannot be fused with its neighbour: matrix products, the passes
of a norm, GELU with its bias, the residual. 16-bit arithmetic; attention keeps its weights on chip; Sinkhorn reads the
16-bit scores once per iteration; nothing is recomputed. Parameters are read once per step, so they weigh less per clip
in a larger batch.

Letters: N tubes, V visible, M hidden, D width, K prototypes, E target width, B clips per device.
"""

from typing import Any

# Bytes per token and width in a transformer block: forward, backward.
PRODUCTS = 32, 64  # inputs and outputs of q k v, output, and the two products of the MLP
BETWEEN = 32, 64  # norms, biases and GELU, residuals
ATTENTION = 8, 16  # q, k, v and output
WEIGHTS = 2, 8  # per parameter of a product: read; read twice, fp32 gradient written
SCORES_AFTER = 4  # cross-entropy, per score: read, gradient written
OPTIMIZER = 38  # AdamW, per parameter: fp32 value and moments read and written, gradient and its norm, 16-bit copy


def model_bytes(task: Any, clips: int, num_params: int) -> dict[str, float]:
    """Bytes per clip of a PretrainTask with `clips` (B) on a device."""
    grid, size, target = task.grid, task.size, task.target_width
    tubes, visible, hidden = grid.num_tubes, grid.num_visible, grid.num_masked
    width, narrow = size.width, size.decoder_width
    pixels = tubes * grid.tube_dim
    found = {
        "input": 3.0 * pixels,  # bytes read, 16 bits written
        "encoder": 4 * visible * (grid.tube_dim + width) + size.depth * _trained(visible, visible, width, clips),
        "decoder": 6 * visible * (width + narrow)
        + (size.decoder_depth - 1) * _trained(tubes, tubes, narrow, clips)
        + _trained(tubes, hidden, narrow, clips)
        + 6 * hidden * (narrow + target),
        "teacher": _teacher(task, clips) if task.source == "features" else 0.0,
        "projection": 0.0,
        "scores": 0.0,
        "sinkhorn": 0.0,
        "optimizer": OPTIMIZER * num_params / clips,
    }
    trains_projection = task.objective != "l2" and task.source == "pixels"
    if trains_projection:
        widths = (grid.tube_dim, *task.projection_widths)
        for a, b in zip(widths, widths[1:], strict=False):
            found["projection"] += 2 * hidden * (3 * a + 8 * b) + 10 * a * b / clips
    if task.objective == "sigma":
        prototypes = task.sigma.num_prototypes
        products = 4 + trains_projection  # as in model_flops: two forward, the rest write no scores but read them
        found["scores"] = products * 2 * hidden * target + (products - 2) * 2 * hidden * prototypes
        sweeps = 2 + 2 * task.sigma.num_iters + 2
        found["sinkhorn"] = 2 * (sweeps + SCORES_AFTER) * hidden * prototypes
    return found


def _trained(tokens: int, outputs: int, width: int, clips: int) -> float:
    """A block whose last half only `outputs` of the tokens go through."""
    weights = 12 * width**2 * sum(WEIGHTS) / clips
    return outputs * width * sum(PRODUCTS + BETWEEN) + tokens * width * sum(ATTENTION) + weights


def _teacher(task: Any, clips: int) -> float:
    teacher, (height, width), frames = task.teacher, task.grid.image_shape, task.grid.num_steps
    tokens = frames * ((height // teacher.patch_size) * (width // teacher.patch_size) + 1 + teacher.num_registers)
    block = tokens * teacher.width * (PRODUCTS[0] + BETWEEN[0] + ATTENTION[0])
    block += 12 * teacher.width**2 * WEIGHTS[0] / clips
    return 2 * tokens * (3 * teacher.patch_size**2 + teacher.width) + teacher.depth * block
