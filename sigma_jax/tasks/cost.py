"""The cost of a training step from its shapes: model FLOPs, memory traffic, and memory for the backward pass.

FLOPs: only matrix products are counted, three times the forward pass for trained ones (twice if the input needs no
gradient) and once for frozen ones, without recomputation. They are those of the published method, which embeds all
tubes and computes every decoder block for all tubes. Our step leaves some of these out without changing the result:
this raises its clips per second and not its FLOPs, so that the number can be compared with any other program for SIGMA.

Memory traffic: every array is read and written once per operation that cannot be fused with its neighbour: matrix
products, the passes of a norm, GELU with its bias, the residual. Arithmetic has 16 bits, attention weights stay on the
chip, and nothing is recomputed. Parameters are read once per step, so their share per clip falls with the batch.
"""

import jax.numpy as jnp

from sigma_jax.models.compute import Compute
from sigma_jax.models.sizes import TeacherSize
from sigma_jax.ops.tubes import TubeGrid

# Numbers that one block keeps for the backward pass per token and unit of width, without rematerialisation: norms, qkv,
# attention output, two MLP widths before and after GELU, residuals.
SAVED_PER_TOKEN = 24

# Bytes of traffic per token and unit of width in a transformer block: (forward, backward).
PRODUCTS = 32, 64  # inputs and outputs of the products for q, k, v, of the output product, and of the MLP's two
BETWEEN = 32, 64  # norms, biases and GELU, residuals
ATTENTION = 8, 16  # q, k, v and output
WEIGHTS = 2, 8  # per parameter of a product: forward, it is read; backward, it is read twice and its gradient written
OPTIMIZER = 38  # AdamW, per parameter: fp32 value and moments read and written, gradient and its norm, 16-bit copy


def saved_bytes(token_widths: int, compute: Compute) -> int:
    """Bytes that blocks keep for the backward pass; token_widths: sum over blocks of tokens x width."""
    return SAVED_PER_TOKEN * jnp.dtype(compute.dtype).itemsize * token_widths


def block_macs(tokens: int, width: int) -> int:
    """Multiply-adds of one transformer block, MLP ratio 4: q, k, v, output, MLP, and the two attention products."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def block_traffic(tokens: int, width: int, clips: int, outputs: int | None = None) -> float:
    """Traffic of a trained block per clip in bytes; its last half computes `outputs` of the tokens only (None: all)."""
    weights = 12 * width**2 * sum(WEIGHTS) / clips
    outputs = tokens if outputs is None else outputs
    return outputs * width * sum(PRODUCTS + BETWEEN) + tokens * width * sum(ATTENTION) + weights


def frozen_block_traffic(tokens: int, width: int, clips: int) -> float:
    """Traffic of a frozen block per clip in bytes."""
    return tokens * width * (PRODUCTS[0] + BETWEEN[0] + ATTENTION[0]) + 12 * width**2 * WEIGHTS[0] / clips


def teacher_macs(teacher: TeacherSize, grid: TubeGrid) -> int:
    """Multiply-adds of a frozen teacher per clip, for one frame of each tube."""
    patches = _teacher_patches(teacher, grid)
    tokens = patches + 1 + teacher.num_registers
    embed = patches * 3 * teacher.patch_size**2 * teacher.width
    return grid.num_steps * (embed + teacher.depth * block_macs(tokens, teacher.width))


def teacher_traffic(teacher: TeacherSize, grid: TubeGrid, clips: int) -> float:
    """Traffic of a frozen teacher per clip in bytes."""
    tokens = grid.num_steps * (_teacher_patches(teacher, grid) + 1 + teacher.num_registers)
    embed = 2 * tokens * (3 * teacher.patch_size**2 + teacher.width)
    return embed + teacher.depth * frozen_block_traffic(tokens, teacher.width, clips)


def _teacher_patches(teacher: TeacherSize, grid: TubeGrid) -> int:
    height, width = grid.image_shape
    return (height // teacher.patch_size) * (width // teacher.patch_size)
