"""Label propagation: carries the mask of the first frame through a video by feature similarity (semi-supervised DAVIS).

There are presets for two published variants, 'dino' (Caron et al. 2021, after Jabri et al. 2020) and 'dinov3' (Siméoni
et al. 2025). A token takes the labels of the most similar tokens within a neighbourhood, in the first frame and in the
last few frames; the resulting soft labels are used for the next frames.

Letters: t context frames, h w token grid, D width, C labels (background included), y x pixels.
"""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from PIL import Image

from sigma_jax.evals.segmentation.clustering import one_thread, upsample
from sigma_jax.runtime.errors import InvalidValue


@dataclasses.dataclass(frozen=True)
class PropagationSettings:
    """Settings of label propagation.

    Attributes:
      context: number of last frames that are used, beside the first frame.
      radius: of the neighbourhood, in tokens; 0: the whole frame.
      shape: of the neighbourhood, 'square' or 'circle'.
      topk: number of most similar tokens that are used, over all context frames together.
      temperature: of the softmax over similarities.
      short_side: of the model's input frames, pixels.
      upsampling: of the soft labels to the frame, 'bilinear' or 'nearest'.
      preset: 'dino' or 'dinov3', which determines how frames are resized.
    """

    context: int = 7
    radius: int = 12
    shape: str = "square"
    topk: int = 5
    temperature: float = 0.1
    short_side: int = 480
    upsampling: str = "bilinear"
    preset: str = "dino"

    def __post_init__(self):
        for name, least in (("context", 0), ("radius", 0), ("topk", 1), ("short_side", 16)):
            if getattr(self, name) < least:
                raise InvalidValue(f"{name}={getattr(self, name)}: expected at least {least}")
        if self.temperature <= 0:
            raise InvalidValue(f"temperature={self.temperature}: expected more than 0")
        for name, known in (("shape", ("square", "circle")), ("upsampling", ("bilinear", "nearest"))):
            if getattr(self, name) not in known:
                raise InvalidValue(f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}")
        if self.preset not in ("dino", "dinov3"):
            raise InvalidValue(f"preset={self.preset!r}: expected dino or dinov3")


PRESETS = {
    "dino": PropagationSettings(),
    "dinov3": PropagationSettings(
        shape="circle", temperature=0.2, short_side=960, upsampling="nearest", preset="dinov3"
    ),
}


def frame_size(height: int, width: int, patch: int, settings: PropagationSettings) -> tuple[int, int]:
    """(rows, columns) of the model's input frames.

    'dino' rounds the long side down to a multiple of 64, or of the patch if this does not divide 64; 'dinov3' rounds
    both sides up to multiples of the patch.

    Raises:
      InvalidValue: nothing would be left of the frame.
    """
    short = settings.short_side
    long = max(height, width) * short / min(height, width)
    if settings.preset == "dino":
        step = 64 if 64 % patch == 0 else patch
        sides = short // patch * patch, int(long // step * step)
    else:
        sides = tuple(int(-(-side // patch) * patch) for side in (short, -(-short // patch) * patch * long / short))
    sides = sides if height <= width else sides[::-1]
    if not all(sides):
        raise InvalidValue(
            f"short_side={short}: frames of {height} x {width} would become {sides[0]} x {sides[1]}, since the preset "
            "dino rounds down, the long side to a multiple of 64, the short one to one of the patch: choose more"
        )
    return sides


def resize_frame(frame: np.ndarray, size: tuple[int, int], settings: PropagationSettings) -> np.ndarray:
    """uint8 [y x 3] -> uint8 of `size`: OpenCV's bilinear for 'dino', Pillow's bicubic for 'dinov3'."""
    if settings.preset == "dino":
        return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC))


def first_labels(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """One-hot labels of the tokens, float32 [h w C], of object numbers uint8 [y x], where 255 is background."""
    mask = np.where(mask == 255, 0, mask).astype(np.uint8)
    small = np.asarray(Image.fromarray(mask).resize(grid[::-1], Image.Resampling.NEAREST))
    return (small[..., None] == np.arange(int(mask.max()) + 1)).astype(np.float32)


def normalized(features: np.ndarray) -> np.ndarray:
    """Scales vectors [... D] to length 1, float32; a zero vector stays zero."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return (features / np.maximum(lengths, 1e-12)).astype(np.float32)


@one_thread
def propagate(
    features: np.ndarray, context: np.ndarray, labels: np.ndarray, settings: PropagationSettings
) -> np.ndarray:
    """Soft labels of one frame.

    Rows of tokens are processed one at a time and compared only to the rows of the context in their neighbourhood.

    Args:
      features: [h w D], of length 1.
      context: [t h w D], of length 1.
      labels: soft labels of the context, [t h w C].

    Returns:
      float32 [h w C].
    """
    height, width, _ = features.shape
    radius = settings.radius or max(height, width)
    num_labels = labels.shape[-1]
    columns = np.abs(np.arange(width)[:, None] - np.arange(width))
    result = np.empty((height, width, num_labels), np.float32)
    for row in range(height):
        rows = slice(max(row - radius, 0), row + radius + 1)
        sources = context[:, rows]
        similarity = features[row] @ sources.reshape(-1, sources.shape[-1]).T
        is_near = _is_near(np.abs(np.arange(height)[rows] - row), columns, settings)
        is_near = np.broadcast_to(is_near[:, None], (width, len(context), *is_near.shape[1:])).reshape(width, -1)
        weights = _weights(similarity, is_near, settings)
        result[row] = weights @ labels[:, rows].reshape(-1, num_labels)
    return result


def _is_near(rows: np.ndarray, columns: np.ndarray, settings: PropagationSettings) -> np.ndarray:
    """Whether tokens at these distances in rows and columns are in the neighbourhood, bool [w rows w]."""
    radius = settings.radius
    if not radius:
        return np.ones((len(columns), len(rows), len(columns)), bool)
    if settings.shape == "square":
        return (rows <= radius)[None, :, None] & (columns <= radius)[:, None, :]
    return rows[None, :, None] ** 2 + columns[:, None, :] ** 2 <= radius**2


def _weights(similarity: np.ndarray, is_near: np.ndarray, settings: PropagationSettings) -> np.ndarray:
    """Weights [w n] that sum to 1 over the most similar of n source tokens.

    They are a softmax of the similarities of the kept tokens; the presets differ in the temperature. As in DINO, all
    tokens that are as similar as the last one of the top k are kept.
    """
    similarity = np.where(is_near, similarity, -np.inf)
    topk = min(settings.topk, similarity.shape[1])
    least = np.partition(similarity, -topk, axis=1)[:, -topk]
    kept = np.where((similarity >= least[:, None]) & is_near, similarity, -np.inf)
    exponents = np.exp((kept - kept.max(axis=1, keepdims=True)) / settings.temperature)
    return exponents / exponents.sum(axis=1, keepdims=True)


def soft_labels(
    features: Iterable[np.ndarray], first: np.ndarray, settings: PropagationSettings
) -> Iterator[np.ndarray]:
    """Propagates the labels of the first frame.

    Args:
      features: [h w D] of every frame in order, the first included; of any length.
      first: labels of the first frame, [h w C].

    Yields:
      soft labels float32 [h w C] of the second frame and those after it.
    """
    frames = iter(features)
    start = normalized(next(frames))
    recent: deque = deque(maxlen=settings.context)
    for frame in frames:
        current = normalized(frame)
        context = [(start, first), *recent]
        labels = propagate(
            current, np.stack([pair[0] for pair in context]), np.stack([pair[1] for pair in context]), settings
        )
        recent.append((current, labels))
        yield labels


def hard_labels(soft: np.ndarray, patch: int, size: tuple[int, int], settings: PropagationSettings) -> np.ndarray:
    """Object numbers, uint8 of `size`, from soft labels [h w C].

    Every label, background included, is scaled to 0..1, then each pixel takes the largest. 'dino' upsamples to the size
    of the model's input, takes the largest there, and resizes the result to the original frame by the nearest pixel;
    'dinov3' upsamples to the original frame directly.
    """
    height, width = soft.shape[:2]
    if settings.upsampling == "bilinear":
        large = upsample(soft, (height * patch, width * patch))
        decided = _stretched(large).argmax(axis=-1).astype(np.uint8)
        return np.asarray(Image.fromarray(decided).resize(size[::-1], Image.Resampling.NEAREST))
    rows, columns = (np.arange(new) * old // new for old, new in zip((height, width), size, strict=True))
    return _stretched(soft).argmax(axis=-1).astype(np.uint8)[rows[:, None], columns]


def _stretched(soft: np.ndarray) -> np.ndarray:
    """Scales every label of [h w C] to 0..1; a label that is constant becomes 0."""
    low, high = soft.min(axis=(0, 1)), soft.max(axis=(0, 1))
    return (soft - low) / np.where(high > low, high - low, 1)
