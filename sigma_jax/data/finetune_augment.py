"""Augmentation of finetuning and probes on the host: RandAugment, random resized crop, flip. uint8 in, uint8 out.

The published recipe: RandAugment `rand-m7-n4-mstd0.5-inc1` at native resolution, crop of 25-100 % of the area, flip.
All frames of a clip share what is drawn. Random erasing, mixup and cutmix follow on the device (objective/mixing.py).

Letters: F frames, h w pixels, m strength of an operation (0..10).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GREY = (128, 128, 128)  # fills the pixels that geometric operations uncover
INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
Operation = Callable[[Image.Image, float, int], Image.Image]  # picture, m, sign -> picture


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=GREY)


def _enhance(kind: type, image: Image.Image, m: float, sign: int) -> Image.Image:
    return kind(image).enhance(1 + sign * 0.09 * m)


def _solarize_add(image: Image.Image, m: float, sign: int) -> Image.Image:
    table = [min(255, value + int(11 * m)) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def _posterize(image: Image.Image, m: float, sign: int) -> Image.Image:
    mask = 256 - 2 ** (8 - (4 - int(0.4 * m)))  # at m = 10 no bit is left, which Pillow's own function refuses
    return image.point([value & mask for value in range(256)] * 3)


# timm's "increasing" variants: a larger m always changes the picture more. sign is +1 or -1.
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, m, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, m, sign: ImageOps.equalize(image),
    "Invert": lambda image, m, sign: ImageOps.invert(image),
    "Rotate": lambda image, m, sign: image.rotate(sign * 3 * m, Image.Resampling.BICUBIC, fillcolor=GREY),
    "Posterize": _posterize,
    "Solarize": lambda image, m, sign: ImageOps.solarize(image, 256 - int(25.6 * m)),
    "SolarizeAdd": _solarize_add,
    "Color": lambda image, m, sign: _enhance(ImageEnhance.Color, image, m, sign),
    "Contrast": lambda image, m, sign: _enhance(ImageEnhance.Contrast, image, m, sign),
    "Brightness": lambda image, m, sign: _enhance(ImageEnhance.Brightness, image, m, sign),
    "Sharpness": lambda image, m, sign: _enhance(ImageEnhance.Sharpness, image, m, sign),
    "ShearX": lambda image, m, sign: _affine(image, (1, sign * 0.03 * m, 0, 0, 1, 0)),
    "ShearY": lambda image, m, sign: _affine(image, (1, 0, 0, sign * 0.03 * m, 1, 0)),
    "TranslateX": lambda image, m, sign: _affine(image, (1, 0, sign * 0.045 * m * image.width, 0, 1, 0)),
    "TranslateY": lambda image, m, sign: _affine(image, (1, 0, 0, 0, 1, sign * 0.045 * m * image.height)),
}


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al. 2020) as timm's `rand-m7-n4-mstd0.5-inc1`.

    Attributes:
      magnitude, std: strengths are drawn from N(magnitude, std) and clipped to 0..10.
      num_operations: operations drawn with replacement, each of which is applied with probability 0.5.
    """

    magnitude: float = 7.0
    num_operations: int = 4
    std: float = 0.5

    def draw(self, rng: np.random.Generator) -> list[tuple[str, float, int]]:
        """(operation, strength, sign) of those that are applied, in order."""
        names = [list(OPERATIONS)[i] for i in rng.integers(len(OPERATIONS), size=self.num_operations)]
        is_applied = rng.random(self.num_operations) < 0.5
        strengths = np.clip(rng.normal(self.magnitude, self.std, self.num_operations), 0, 10)
        signs = np.where(rng.random(self.num_operations) < 0.5, -1, 1)
        drawn = zip(names, is_applied, strengths, signs, strict=True)
        return [(name, float(m), int(sign)) for name, applied, m, sign in drawn if applied]


def apply_operations(video: np.ndarray, operations: list[tuple[str, float, int]]) -> np.ndarray:
    """Applies drawn operations to every frame of uint8 [F h w 3]."""
    if not operations:
        return video
    frames = []
    for frame in video:
        image = Image.fromarray(np.ascontiguousarray(frame))
        for name, m, sign in operations:
            image = OPERATIONS[name](image, m, sign)
        frames.append(np.asarray(image))
    return np.stack(frames)


def random_resized_crop_box(
    height: int, width: int, min_area: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws a random box (top, left, height, width), as torchvision's RandomResizedCrop.

    Its area is U(min_area, 1) of the frame's, its aspect ratio log-uniform in (3/4, 4/3). After ten boxes that do not
    fit into the frame, it is the largest central box of an allowed aspect ratio.
    """
    low, high = 3 / 4, 1.3333
    for _ in range(10):
        area = rng.uniform(min_area, 1.0) * height * width
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = height, width
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    return (height - h) // 2, (width - w) // 2, h, w


def resize(video: np.ndarray, height: int, width: int, interpolation: str = "bilinear") -> np.ndarray:
    """uint8 [F h w 3] -> [F height width 3], half-pixel centres, no antialiasing (as published for finetuning)."""
    if video.shape[1:3] == (height, width):
        return np.ascontiguousarray(video)
    method = INTERPOLATIONS[interpolation]
    return np.stack([cv2.resize(np.ascontiguousarray(f), (width, height), interpolation=method) for f in video])


@dataclass(frozen=True)
class TrainAugment:
    """The random augmentation of a training clip.

    Attributes:
      operations: RandAugment, or None to turn it off.
      min_area: smallest share of the frame's area in the crop (0.25 in SIGMA, 0.08 in VideoMAE; 1 with a square video
        is no crop).
      flip: probability that the clip is mirrored (0 for Something-Something, some of whose classes say left or right).
      interpolation: one of INTERPOLATIONS.
    """

    operations: RandAugment | None = RandAugment()
    min_area: float = 0.25
    flip: float = 0.5
    interpolation: str = "bilinear"

    def __call__(self, video: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 [F h w 3] -> [F size size 3]."""
        if self.operations is not None:
            video = apply_operations(video, self.operations.draw(rng))
        top, left, h, w = random_resized_crop_box(*video.shape[1:3], self.min_area, rng)
        video = resize(video[:, top : top + h, left : left + w], size, size, self.interpolation)
        return video[:, :, ::-1] if rng.random() < self.flip else video


def crop_offsets(long_side: int, size: int, num_crops: int, rounds_up: bool = False) -> list[int]:
    """Offsets in pixels of test crops along the long side: equally spaced from end to end, or one in the middle."""
    room = long_side - size
    places = [room / 2] if num_crops == 1 else [crop * room / (num_crops - 1) for crop in range(num_crops)]
    return [math.ceil(place) if rounds_up else int(place) for place in places]


@dataclass(frozen=True)
class ViewCrop:
    """The spatial part of a test view: the short side is resized, then a square is cropped along the long side.

    Attributes:
      num_crops: crops of one temporal view.
      short_side: pixels to which the short side is resized; 0: the size of the crop.
      interpolation: one of INTERPOLATIONS.
      rounds_up: whether offsets between two pixels are rounded up (Charades) or down.
    """

    num_crops: int = 1
    short_side: int = 0
    interpolation: str = "bilinear"
    rounds_up: bool = False

    def __call__(self, video: np.ndarray, size: int, crop: int) -> np.ndarray:
        """uint8 [F h w 3] -> [F size size 3]: crop number `crop` along the long side, central along the short one."""
        height, width = video.shape[1:3]
        short, target = min(height, width), self.short_side or size
        video = resize(video, height * target // short, width * target // short, self.interpolation)
        height, width = video.shape[1:3]
        offset = crop_offsets(max(height, width), size, self.num_crops, self.rounds_up)[crop]
        top, left = (offset, (width - size) // 2) if height > width else ((height - size) // 2, offset)
        return video[:, top : top + size, left : left + size]
