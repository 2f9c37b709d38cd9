"""What a config's `task` selects: the Task, its training data, its measurements."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from sigma_jax.data.pipeline import Loader, pretrain_loader
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


def bad_records_name(process: int) -> str:
    """File in the workdir where a process names what it could not read."""
    return f"bad_records-{process}.jsonl" if process else "bad_records.jsonl"


def open_pretrain_data(config: Any, data_dir: str, workdir: Path) -> Loader:
    """Endless random clips without labels."""
    return pretrain_loader(
        data_dir,
        split=config.data.split,
        num_frames=config.model.num_frames,
        frame_stride=config.data.frame_stride,
        image_size=config.model.image_size,
        global_batch=config.batch_size,
        seed=config.seed,
        num_workers=config.data.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        crop=config.data.crop,
        max_bad_fraction=config.data.max_bad_fraction,
        bad_records_path=workdir / bad_records_name(jax.process_index()),
        cache_decoded=config.data.cache_decoded,
        decoding=decoding_of(config),
    )


CLASSIFY = Kind(classification_task, open_training_data, build_measurements, resolve_classes, build_test)
KINDS = {
    "pretrain": Kind(pretrain_task, open_pretrain_data, knn_monitor),
    "finetune": CLASSIFY,
    "linear_probe": CLASSIFY,
    "attentive_probe": CLASSIFY,
}
