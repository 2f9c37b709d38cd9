"""From a finetuning or probe config to labelled data."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from sigma_jax.data.finetune_augment import RandAugment, TrainAugment, ViewCrop
from sigma_jax.data.labelled import LabelledSpec
from sigma_jax.data.loader import Loader, LoaderSpec, OnePass, Shuffled, Workers, open_loader
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.datasets.classes import check_known, read_classes
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.train.decoding import decoding_of


def resolve_classes(config: ConfigDict, data_dir: str) -> ConfigDict:
    """The config with the number of classes and the hash of the label map filled in from the data.

    Raises:
      DataSetError: a known data set with another number of classes, or data without classes.
      ValueError: the config says another number than the data.
    """
    classes = read_classes(data_dir, config.data.split)
    check_known(config.data.name, classes)
    if config.data.num_classes not in (None, classes.num_classes):
        raise InvalidValue(f"data.num_classes={config.data.num_classes}, but {data_dir} has {classes.num_classes}")
    resolved = ConfigDict(config.to_dict())
    resolved.data.num_classes, resolved.data.label_hash = classes.num_classes, classes.label_hash
    return resolved.lock()


def build_spec(config: Any, num_views: int = 1, num_crops: int = 1) -> LabelledSpec:
    """What is cut out of a video, with so many test views."""
    data = config.data
    augment = None
    if data.rand_augment:
        magnitude, num_operations, std = data.rand_augment
        augment = RandAugment(magnitude, int(num_operations), std)
    return LabelledSpec(
        FrameSampling(data.sampling, config.model.num_frames, data.frame_stride),
        config.model.image_size,
        data.num_classes,
        augment=TrainAugment(augment, data.min_area, data.flip, data.interpolation),
        crops=ViewCrop(num_crops, data.short_side, data.interpolation),
        num_views=num_views,
    )


def workers_of(config: Any) -> Workers:
    """This process among all."""
    return Workers(config.data.num_workers, jax.process_index(), jax.process_count())


def open_training_data(config: Any, data_dir: str, workdir: Path) -> Loader:
    """Endless shuffled labelled clips."""
    data = config.data
    spec = LoaderSpec(
        data_dir,
        data.split,
        build_spec(config),
        Shuffled(config.seed, data.repeats, data.max_bad_fraction, workdir),
        config.batch_size * data.repeats,
        workers_of(config),
        decoding_of(config),
        data.cache_decoded,
    )
    return open_loader(spec)


def open_views(config: Any, data_dir: str, split: str, views: tuple[int, int], num_devices: int) -> Loader:
    """One pass over the (temporal views, crops) of a split; the batch is rounded up to fill the devices."""
    batch = -(-config.evals.batch_size // num_devices) * num_devices
    order, clips = OnePass(allow_incomplete=True), build_spec(config, *views)
    return open_loader(LoaderSpec(data_dir, split, clips, order, batch, workers_of(config), decoding_of(config)))
