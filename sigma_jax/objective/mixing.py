"""Random erasing, mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of a batch on the device, as in finetuning.

Letters: B clips, F frames, H W pixels, C classes.
"""

import dataclasses

import jax
import jax.numpy as jnp

from sigma_jax.ops.placement import flip_clips
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD
from sigma_jax.runtime.errors import InvalidValue

ERASE_TRIES = 100
ERASE_AREA = (0.02, 1 / 3)  # of the frame
ERASE_ASPECT = (0.3, 1 / 0.3)


@dataclasses.dataclass(frozen=True)
class MixSettings:
    """Parameters of the Beta distributions of mixup and cutmix, and the probability of cutmix instead of mixup."""

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    cutmix_share: float = 0.5


def erase(key: jax.Array, video: jax.Array, probability: float) -> jax.Array:
    """Random erasing (Zhong et al. 2020): fills one box per clip, the same in all frames, with noise.

    The noise is N(0, 1) in standardised pixels, independent for each pixel. The box has U(.02, 1/3) of the frame's area
    and a log-uniform aspect ratio in (.3, 1/.3); it is the first of a hundred draws that fits the frame.

    Args:
      video: [B F H W 3], float in [0, 1].
      probability: that a clip gets a box.

    Returns:
      [B F H W 3].
    """
    coin, box, noise = jax.random.split(key, 3)
    size = video.shape[2:4]
    boxes = jax.vmap(lambda k: _erased_box(k, *size))(jax.random.split(box, len(video)))  # 4 x [B]
    is_inside = jax.vmap(lambda *b: _box_mask(*b, size))(*boxes)
    is_touched = jax.random.bernoulli(coin, probability, (len(video), 1, 1))
    where = (is_inside & is_touched)[:, None, :, :, None]
    normal = jax.random.normal(noise, video.shape)
    return jnp.where(where, jnp.asarray(PIXEL_MEAN) + jnp.asarray(PIXEL_STD) * normal, video)


def _erased_box(key: jax.Array, height: int, width: int) -> tuple[jax.Array, ...]:
    """(top, left, bottom, right) of a random box; it is empty if no draw fits the frame."""
    u_area, u_aspect, u_top, u_left = jax.random.uniform(key, (4, ERASE_TRIES))
    area = (ERASE_AREA[0] + u_area * (ERASE_AREA[1] - ERASE_AREA[0])) * height * width
    low, high = jnp.log(jnp.asarray(ERASE_ASPECT))
    aspect = jnp.exp(low + u_aspect * (high - low))
    h, w = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (h < height) & (w < width)
    first = jnp.argmax(fits)
    h, w = (jnp.where(fits[first], side[first], 0).astype(jnp.int32) for side in (h, w))
    top = (u_top[0] * (height - h + 1)).astype(jnp.int32)
    left = (u_left[0] * (width - w + 1)).astype(jnp.int32)
    return top, left, top + h, left + w


def _box_mask(top, left, bottom, right, size: tuple[int, int]) -> jax.Array:
    """[H W], True inside."""
    rows, columns = jnp.arange(size[0])[:, None], jnp.arange(size[1])
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def cutmix_box(lam: jax.Array, center: tuple, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """([H W] mask of the pasted box, the share of the frame outside of it).

    The box has int(side * sqrt(1 - lam)) pixels along each side and is clipped to the frame, so that the share differs
    from lam.
    """
    height, width = size
    h, w = (jnp.floor(side * jnp.sqrt(1.0 - lam)).astype(jnp.int32) for side in size)
    top, bottom = (jnp.clip(center[0] + offset, 0, height) for offset in (-(h // 2), h // 2))
    left, right = (jnp.clip(center[1] + offset, 0, width) for offset in (-(w // 2), w // 2))
    share = 1.0 - (bottom - top) * (right - left) / (height * width)
    return _box_mask(top, left, bottom, right, size), share


def mix(key: jax.Array, video: jax.Array, targets: jax.Array, settings: MixSettings) -> tuple[jax.Array, jax.Array]:
    """Mixes every clip with its partner in the reversed batch, by mixup or cutmix.

    The kind and lambda are drawn once for the batch. Each device reverses its own clips, so that no video crosses
    devices.

    Args:
      video: [B F H W 3] float.
      targets: [B C].

    Returns:
      Mixed video [B F H W 3], and lambda * targets + (1 - lambda) * reversed targets [B C].

    Raises:
      InvalidValue: an odd number of clips, whose middle one has no partner.
    """
    if len(video) % 2:
        raise InvalidValue(f"mixup and cutmix pair clips, but a micro-batch has {len(video)}: make the batch size even")
    coin, beta_mix, beta_cut, row, column = jax.random.split(key, 5)
    size = video.shape[2:4]
    is_cutmix = jax.random.bernoulli(coin, settings.cutmix_share)
    lam_mix = jax.random.beta(beta_mix, settings.mixup_alpha, settings.mixup_alpha)
    lam_cut = jax.random.beta(beta_cut, settings.cutmix_alpha, settings.cutmix_alpha)
    center = jax.random.randint(row, (), 0, size[0]), jax.random.randint(column, (), 0, size[1])
    inside, share = cutmix_box(lam_cut, center, size)
    weight = jnp.where(is_cutmix, inside.astype(jnp.float32), 1.0 - lam_mix)[None, None, :, :, None]
    lam = jnp.where(is_cutmix, share, lam_mix)
    return video * (1.0 - weight) + flip_clips(video) * weight, mix_targets(targets, lam)


def mix_targets(targets: jax.Array, lam: jax.Array | float) -> jax.Array:
    """lam * targets + (1 - lam) * targets of the reversed batch (as in `mix`), [B C]."""
    return lam * targets + (1.0 - lam) * flip_clips(targets)
