"""What a training step costs by its shapes: model FLOPs, bytes moved, bytes kept. What several tasks count alike.

FLOPs: only matrix products count. A trained one costs three times its forward pass (twice where its input needs no
gradient), a frozen one once; recomputation never counts. Counted is the method as published: all tubes embedded, every
decoder block over all tubes. Our step leaves some of that out without changing the result, which raises its clips per
second, not its FLOPs, so the same number serves any other program that computes SIGMA.

Bytes moved: every array is read and written once per operation that cannot be fused with its neighbour: matrix
products, the passes of a norm, GELU with its bias, the residual. 16-bit arithmetic; attention keeps its weights on
chip; nothing is recomputed. Parameters are read once per step, so they weigh less per clip in a larger batch.
"""

import jax.numpy as jnp

from sigma_jax.models.compute import Compute
from sigma_jax.models.sizes import TeacherSize
from sigma_jax.ops.tubes import TubeGrid

# Numbers kept for the backward pass per token and unit of width in one block, without remat: norms, qkv, attention
# output, two MLP widths before and after GELU, residuals.
SAVED_PER_TOKEN = 24

# Bytes moved per token and width in a transformer block: forward, backward.
PRODUCTS = 32, 64  # inputs and outputs of q k v, output, and the two products of the MLP
BETWEEN = 32, 64  # norms, biases and GELU, residuals
ATTENTION = 8, 16  # q, k, v and output
WEIGHTS = 2, 8  # per parameter of a product: read; read twice, fp32 gradient written
OPTIMIZER = 38  # AdamW, per parameter: fp32 value and moments read and written, gradient and its norm, 16-bit copy


def saved_bytes(token_widths: int, compute: Compute) -> int:
    """Bytes that blocks keep for the backward pass; token_widths: sum over blocks of tokens x width."""
    return SAVED_PER_TOKEN * jnp.dtype(compute.dtype).itemsize * token_widths


def block_macs(tokens: int, width: int) -> int:
    """Multiply-adds of one transformer block, MLP ratio 4: q, k, v, output, MLP, and the two attention products."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def block_traffic(tokens: int, width: int, clips: int, outputs: int | None = None) -> float:
    """Bytes of a trained block per clip; only `outputs` of the tokens go through its last half (None: all)."""
    weights = 12 * width**2 * sum(WEIGHTS) / clips
    outputs = tokens if outputs is None else outputs
    return outputs * width * sum(PRODUCTS + BETWEEN) + tokens * width * sum(ATTENTION) + weights


def frozen_block_traffic(tokens: int, width: int, clips: int) -> float:
    """Bytes of a block that runs forward only."""
    return tokens * width * (PRODUCTS[0] + BETWEEN[0] + ATTENTION[0]) + 12 * width**2 * WEIGHTS[0] / clips


def teacher_macs(teacher: TeacherSize, grid: TubeGrid) -> int:
    """Multiply-adds of a frozen teacher on the frames of one clip that it sees."""
    patches = _teacher_patches(teacher, grid)
    tokens = patches + 1 + teacher.num_registers
    embed = patches * 3 * teacher.patch_size**2 * teacher.width
    return grid.num_steps * (embed + teacher.depth * block_macs(tokens, teacher.width))


def teacher_traffic(teacher: TeacherSize, grid: TubeGrid, clips: int) -> float:
    """Bytes that it moves per clip."""
    tokens = grid.num_steps * (_teacher_patches(teacher, grid) + 1 + teacher.num_registers)
    embed = 2 * tokens * (3 * teacher.patch_size**2 + teacher.width)
    return embed + teacher.depth * frozen_block_traffic(tokens, teacher.width, clips)


def _teacher_patches(teacher: TeacherSize, grid: TubeGrid) -> int:
    height, width = grid.image_shape
    return (height // teacher.patch_size) * (width // teacher.patch_size)
