"""Small annotated sequences on disk."""

import json

import numpy as np
import pytest
from PIL import Image

PALETTE = [0, 0, 0, 200, 40, 40, 40, 200, 40, 40, 40, 200] + [90] * 756


def write_frame(path, value, size=(40, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.indices(size)
    image = np.stack([rows * 3 + value, columns * 2, 0 * rows + value], axis=-1)
    Image.fromarray(image.astype(np.uint8)).save(path)


def write_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(mask, np.uint8), mode="P")
    image.putpalette(PALETTE)
    image.save(path)


def moving_square(step, size=(40, 60), number=1):
    mask = np.zeros(size, np.uint8)
    mask[10:25, 5 + 2 * step : 25 + 2 * step] = number
    return mask


def write_sequence(frames, masks, num_frames=6, start=0, every=1):
    for i in range(num_frames):
        write_frame(frames / f"{start + i * every:05d}.jpg", 10 * i)
        write_mask(masks / f"{start + i * every:05d}.png", moving_square(i))


@pytest.fixture
def davis(tmp_path):
    """A DAVIS folder with the sequences 'cat' and 'dog'."""
    root = tmp_path / "davis"
    for name in ("cat", "dog"):
        write_sequence(root / "JPEGImages/480p" / name, root / "Annotations/480p" / name)
    lists = root / "ImageSets/2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("dog\ncat\n")
    return root


@pytest.fixture
def ytvos(tmp_path):
    """A YouTube-VOS folder whose video 'v1' shows an ape (1)."""
    root = tmp_path / "ytvos"
    for name in ("v1", "v2"):
        write_sequence(root / "train/JPEGImages" / name, root / "train/Annotations" / name, every=5)
    objects = {"v1": {"1": {"category": "zebra"}}, "v2": {"1": {"category": "ape"}}}
    meta = {"videos": {name: {"objects": value} for name, value in objects.items()}}
    (root / "train/meta.json").write_text(json.dumps(meta))
    return root
