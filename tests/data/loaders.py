"""Loaders of small clips in one call: `training(folder, ...)` and `measuring(folder, ...)`."""

from pathlib import Path

from sigma_jax.data.clips import ClipSpec
from sigma_jax.data.loader import Loader, LoaderSpec, OnePass, Shuffled, Workers, open_loader

CLIP = {"num_frames": 4, "frame_stride": 1, "image_size": 16}
_ORDER = ("seed", "repeats", "max_bad_fraction", "bad_records_dir")
_WORKERS = ("num_workers", "process_index", "process_count")


def training(data_dir: Path, **settings) -> Loader:
    """Endless random clips of the split `train`; any field of LoaderSpec and its parts may be given by name."""
    return _open(data_dir, {"split": "train", "crop": "multi_scale", "seed": 5, **settings}, Shuffled, _ORDER)


def measuring(data_dir: Path, **settings) -> Loader:
    """One pass over the central clips of the split `train`."""
    return _open(data_dir, {"split": "train", "crop": "center", **settings}, OnePass, ("allow_incomplete",))


def _open(data_dir: Path, settings: dict, order, of_order: tuple[str, ...]) -> Loader:
    rest = CLIP | settings
    parts = [
        cls(**{name: rest.pop(name) for name in names if name in rest})
        for cls, names in ((ClipSpec, (*CLIP, "crop")), (order, of_order), (Workers, _WORKERS))
    ]
    return open_loader(LoaderSpec(data_dir, clips=parts[0], order=parts[1], workers=parts[2], **rest))
