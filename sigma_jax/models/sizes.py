"""Model sizes, with their sources.

S, B, L, H: the VideoMAE family as the authors build it (tests/goldens/param_tables.json has
their parameter counts). tiny: the demo and the tests (toy scale, 2x8x8 tubes of 32x32 clips).
"""

import dataclasses

from sigma_jax.runtime.errors import InvalidValue


@dataclasses.dataclass(frozen=True)
class VideoSize:
    """Width, depth and number of heads of the encoder and of the decoder."""

    width: int
    depth: int
    num_heads: int
    decoder_width: int
    decoder_num_heads: int
    decoder_depth: int = 4


VIDEO_SIZES = {
    "tiny": VideoSize(96, 4, 3, 64, 2, decoder_depth=2),
    "S": VideoSize(384, 12, 6, 192, 3),
    "B": VideoSize(768, 12, 12, 384, 6),
    "L": VideoSize(1024, 24, 16, 512, 8),
    "H": VideoSize(1280, 32, 16, 640, 8),
}


@dataclasses.dataclass(frozen=True)
class TeacherSize:
    """A frozen image ViT: DINO (Caron et al. 2021) or DINOv2 with registers (Darcet et al. 2024)."""

    width: int
    depth: int
    num_heads: int
    patch_size: int = 16
    num_registers: int = 0
    layer_scale: bool = False
    position_grid: tuple[int, int] = (14, 14)  # of the published position table
    cls_position: bool = True  # the table has a row for cls


TEACHER_SIZES = {
    "tiny": TeacherSize(48, 2, 3, patch_size=8, position_grid=(4, 4)),
    "dino_s16": TeacherSize(384, 12, 6),
    "dino_b16": TeacherSize(768, 12, 12),
    "dinov2_s14": TeacherSize(384, 12, 6, 14, 4, True, (37, 37)),
    "dinov2_b14": TeacherSize(768, 12, 12, 14, 4, True, (37, 37)),
    "dinov2_l14": TeacherSize(1024, 24, 16, 14, 4, True, (37, 37)),
}


def lookup(table: dict, name: str, what: str):
    """An entry of VIDEO_SIZES or TEACHER_SIZES; raises InvalidValue that lists the known names.

    Args:
      what: what the name is called in the message.
    """
    if name not in table:
        raise InvalidValue(f"{what} {name!r} is unknown: choose one of {', '.join(table)}")
    return table[name]
