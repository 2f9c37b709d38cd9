"""k-NN on frozen features while a model pre-trains: a falling loss alone proves nothing.

Bank and test clips come from two small labelled splits of the run's data folder, one central clip per video. A feature
is the mean of the encoder's latents over all tubes, after its final norm; nothing is trained.

Letters: B clips, F frames, N tubes, D width.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sigma_jax.data.clips import ClipSpec
from sigma_jax.data.loader import Loader, LoaderSpec, OnePass, open_loader
from sigma_jax.data.records import DataSetError
from sigma_jax.evals.labellings import labellings
from sigma_jax.evals.protocol import FrozenFeatures
from sigma_jax.runtime.durations import resolve_duration
from sigma_jax.runtime.sharding import shard_batch, traced_on
from sigma_jax.train.decoding import decoding_of
from sigma_jax.train.evaluation import Scheduled
from sigma_jax.train.tasks import PretrainTask

BATCH_PER_DEVICE = 64


def mean_latents(task: PretrainTask) -> Callable[[Any, Any], jax.Array]:
    """A function of (parameters, video uint8 [B F y x 3]) -> mean latents [B D], fp32, whole on every process."""

    return _encoder(task, lambda latents: jnp.mean(latents, axis=1))


def all_latents(task: PretrainTask) -> Callable[[Any, Any], jax.Array]:
    """As mean_latents, but the latents of all tubes, [B N D]."""
    return _encoder(task, lambda latents: latents)


def _encoder(task: PretrainTask, pool: Callable[[jax.Array], jax.Array]) -> Callable[[Any, Any], jax.Array]:
    def features(params, video):
        return pool(task.model.apply({"params": params}, video, method="encode").astype(jnp.float32))

    return jax.jit(traced_on(task.mesh, features), out_shardings=NamedSharding(task.mesh, P()))


def central_clips(config: Any, data_dir: str, split: str, batch_size: int) -> Loader:
    """One pass over a split as the model of `config` sees it; every process reads all of it."""
    crop = "none" if config.data.crop == "none" else "center"
    clips = ClipSpec(config.model.num_frames, config.data.frame_stride, config.model.image_size, crop)
    return open_loader(LoaderSpec(data_dir, split, clips, OnePass(), batch_size, decoding=decoding_of(config)))


def knn_monitor(run: Any) -> tuple[Scheduled, ...]:
    """The evaluator that `config.evals.knn` of a Run asks for; none where it is off or the splits are not there."""
    config = run.config.evals.knn
    every = resolve_duration(
        config, "every", steps_per_epoch=run.plan.steps_per_epoch, total_steps=run.plan.total_steps
    )
    if not every:
        return ()
    batch_size = BATCH_PER_DEVICE * run.mesh.size
    try:
        for split in (config.bank_split, config.test_split):
            central_clips(run.config, run.data_dir, split, batch_size).close()
        asked = labellings(run.data_dir)
    except (DataSetError, FileNotFoundError, ValueError) as error:
        logging.warning("k-NN is not monitored: %s (evals.knn.every_steps=0 turns it off)", error)
        return ()
    features = mean_latents(run.task)

    def batches(split: str) -> Callable[[], Loader]:
        return lambda: central_clips(run.config, run.data_dir, split, batch_size)

    evaluator = FrozenFeatures(batches(config.bank_split), batches(config.test_split), asked, k=config.k, linear=False)

    def measure(state, step) -> Iterator[tuple[str, float]]:
        params = {"encoder": state.params["encoder"]}
        return evaluator.run(lambda video: features(params, shard_batch(run.mesh, {"video": own_rows(video)})["video"]))

    return (Scheduled("k-NN", every, measure),)


def own_rows(batch: np.ndarray) -> np.ndarray:
    """This process's part of a batch that every process holds."""
    size = len(batch) // jax.process_count()
    return batch[jax.process_index() * size :][:size]
