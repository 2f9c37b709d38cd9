"""Space-time tubes: all tube arithmetic, and video <-> tubes.

Letters: B clips, F frames, (t h w) tube grid, (pt ph pw) tube size, N = t*h*w tubes, V visible, M hidden,
P = pt*ph*pw*3 numbers in a tube. A flattened grid runs time, row, column; inside a tube: frame, row, column,
channel, as in the authors' code.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange

from sigma_jax.runtime.errors import InvalidValue

PIXEL_MEAN = (0.485, 0.456, 0.406)  # ImageNet, of pixels in [0, 1]
PIXEL_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class TubeGrid:
    """How a clip is cut into tubes and how many of them are hidden.

    Attributes:
      num_frames: F.
      image_size: pixels, one number for a square or (height, width).
      tube_size: (pt, ph, pw), frames and pixels.
      mask_ratio: share of the tubes that is hidden, inside (0, 1).

    Raises:
      InvalidValue: the clip is not a whole number of tubes, or the mask ratio hides none or all of them.
    """

    num_frames: int = 16
    image_size: int | tuple[int, int] = 224
    tube_size: tuple[int, int, int] = (2, 16, 16)
    mask_ratio: float = 0.9

    def __post_init__(self):
        pt, ph, pw = self.tube_size
        if self.num_frames < 1 or self.num_frames % pt:
            raise InvalidValue(
                f"num_frames={self.num_frames} is not a multiple of the tube length {pt}: choose one that is"
            )
        height, width = self.image_shape
        if height < 1 or width < 1 or height % ph or width % pw:
            raise InvalidValue(
                f"image_size={self.image_size} is not a multiple of the tube's {ph}x{pw}: choose one that is"
            )
        if not 0 < self.mask_ratio < 1:
            raise InvalidValue(f"mask_ratio={self.mask_ratio} must lie inside (0, 1), e.g. 0.9")
        if not 0 < self.masked_per_step < self.tubes_per_step:
            raise InvalidValue(
                f"mask_ratio={self.mask_ratio} hides {self.masked_per_step} of {self.tubes_per_step} tubes per time "
                "step: at least one must be hidden and one visible"
            )

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of a frame."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else tuple(self.image_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(t, h, w)."""
        pt, ph, pw = self.tube_size
        height, width = self.image_shape
        return self.num_frames // pt, height // ph, width // pw

    @property
    def num_steps(self) -> int:
        """Time steps t."""
        return self.shape[0]

    @property
    def tubes_per_step(self) -> int:
        """h * w."""
        return self.shape[1] * self.shape[2]

    @property
    def num_tubes(self) -> int:
        return self.num_steps * self.tubes_per_step

    @property
    def masked_per_step(self) -> int:
        """Hidden tubes per time step: int(mask_ratio * h * w), as in the authors' code (tests/goldens/masks.npz)."""
        return int(self.mask_ratio * self.tubes_per_step)

    @property
    def num_masked(self) -> int:
        return self.num_steps * self.masked_per_step

    @property
    def num_visible(self) -> int:
        return self.num_tubes - self.num_masked

    @property
    def tube_dim(self) -> int:
        """Numbers in one tube, P."""
        pt, ph, pw = self.tube_size
        return pt * ph * pw * 3


def video_to_tubes(video: jax.Array, tube_size: tuple[int, int, int]) -> jax.Array:
    """Cuts clips [B F H W 3] into tubes [B N P], any dtype."""
    pt, ph, pw = tube_size
    return rearrange(video, "B (t pt) (h ph) (w pw) c -> B (t h w) (pt ph pw c)", pt=pt, ph=ph, pw=pw)


def tubes_to_video(tubes: jax.Array, grid: TubeGrid) -> jax.Array:
    """Inverse of `video_to_tubes`: [B N P] -> [B F H W 3]."""
    (t, h, w), (pt, ph, pw) = grid.shape, grid.tube_size
    pattern = "B (t h w) (pt ph pw c) -> B (t pt) (h ph) (w pw) c"
    return rearrange(tubes, pattern, t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)


def unit_pixels(pixels: jax.Array) -> jax.Array:
    """Pixels as float32 in [0, 1]: uint8 0..255 are divided by 255, floats are taken to be in [0, 1] already."""
    if pixels.dtype == jnp.uint8:
        return pixels.astype(jnp.float32) / 255.0
    return pixels.astype(jnp.float32)


def standardize_tubes(tubes: jax.Array) -> jax.Array:
    """The network's input: (x - mean) / std per channel, float32, of tubes [... P], uint8 or float in [0, 1]."""
    repeats = tubes.shape[-1] // 3
    mean = jnp.tile(jnp.asarray(PIXEL_MEAN, jnp.float32), repeats)
    std = jnp.tile(jnp.asarray(PIXEL_STD, jnp.float32), repeats)
    return (unit_pixels(tubes) - mean) / std
