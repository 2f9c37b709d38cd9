"""From a finetuning or probe config to labelled data."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from sigma_jax.data.finetune_augment import RandAugment, TrainAugment, ViewCrop
from sigma_jax.data.labelled import LabelledSpec, Workers, train_loader, view_loader
from sigma_jax.data.pipeline import Loader
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
    return train_loader(
        data_dir,
        build_spec(config),
        split=config.data.split,
        global_batch=config.batch_size,
        repeats=config.data.repeats,
        seed=config.seed,
        workers=workers_of(config),
        cache_decoded=config.data.cache_decoded,
        max_bad_fraction=config.data.max_bad_fraction,
        bad_records_path=workdir / "bad_records.jsonl",
        decoding=decoding_of(config),
    )


def open_views(config: Any, data_dir: str, split: str, views: tuple[int, int], num_devices: int) -> Loader:
    """One pass over the (temporal views, crops) of a split; the batch is rounded up to fill the devices."""
    batch = -(-config.evals.batch_size // num_devices) * num_devices
    return view_loader(
        data_dir,
        build_spec(config, *views),
        split=split,
        global_batch=batch,
        workers=workers_of(config),
        decoding=decoding_of(config),
    )
