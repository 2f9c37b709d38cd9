"""What a config's `task` selects: the Task, its training data, its measurements."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from sigma_jax.data.clips import ClipSpec
from sigma_jax.data.loader import Loader, LoaderSpec, Shuffled, Workers, open_loader
from sigma_jax.models.pretrain import Compute
from sigma_jax.models.sizes import lookup
from sigma_jax.train.classification_data import open_training_data, resolve_classes
from sigma_jax.train.classification_task import classification_task
from sigma_jax.train.classification_tests import build_measurements, build_test
from sigma_jax.train.decoding import decoding_of
from sigma_jax.train.evaluation import Scheduled
from sigma_jax.train.monitor import knn_monitor
from sigma_jax.train.tasks import Task, pretrain_task


class Kind(NamedTuple):
    """The parts of a task that the loop does not know."""

    task: Callable[[Any, Mesh, Compute], Task]
    data: Callable[[Any, str, Path], Loader]  # config, data_dir, workdir: this process's training batches
    evaluators: Callable[[Any], tuple[Scheduled, ...]]  # of a Run
    resolve: Callable[[Any, str], Any] = lambda config, data_dir: config  # fills in what the data say
    test: Callable[[Any], Scheduled] | None = None  # of a Bench, for --mode=eval


def kind_of(config: Any) -> Kind:
    """The entry of KINDS for `config.task`; an unknown name lists the known ones."""
    return lookup(KINDS, config.task, "task")


def open_pretrain_data(config: Any, data_dir: str, workdir: Path) -> Loader:
    """Endless random clips without labels."""
    data = config.data
    spec = LoaderSpec(
        data_dir,
        data.split,
        ClipSpec(config.model.num_frames, data.frame_stride, config.model.image_size, data.crop),
        Shuffled(config.seed, max_bad_fraction=data.max_bad_fraction, bad_records_dir=workdir),
        config.batch_size,
        Workers(data.num_workers, jax.process_index(), jax.process_count()),
        decoding_of(config),
        data.cache_decoded,
    )
    return open_loader(spec)


CLASSIFY = Kind(classification_task, open_training_data, build_measurements, resolve_classes, build_test)
KINDS = {
    "pretrain": Kind(pretrain_task, open_pretrain_data, knn_monitor),
    "finetune": CLASSIFY,
    "linear_probe": CLASSIFY,
    "attentive_probe": CLASSIFY,
}
