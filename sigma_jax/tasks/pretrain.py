"""Pre-training: SIGMA-MLP, SIGMA-DINO and their controls.

Letters: B clips, F frames, N tubes, V visible, M hidden, P numbers in a tube, D width, E target width, K prototypes.
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from einops import rearrange
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sigma_jax.data.clips import ClipSpec
from sigma_jax.data.loader import Loader, LoaderSpec, OnePass, Shuffled, open_loader
from sigma_jax.data.records import DataSetError
from sigma_jax.evals.frozen_features import FrozenFeatures
from sigma_jax.evals.labellings import labellings
from sigma_jax.evals.protocol import Evaluator
from sigma_jax.evals.segmentation.benchmark import ClusteringEvaluator, read_clips
from sigma_jax.evals.segmentation.layouts import open_sequences
from sigma_jax.evals.segmentation.settings import ClusteringSettings
from sigma_jax.models.compute import Compute
from sigma_jax.models.dino import DinoVit, tube_features
from sigma_jax.models.pretrain import PretrainModel
from sigma_jax.models.prototypes import Prototypes, constrain, cosine_scores
from sigma_jax.models.sizes import TEACHER_SIZES, VIDEO_SIZES, lookup
from sigma_jax.objective.feature_queue import empty_queue
from sigma_jax.objective.reconstruction import reconstruction_loss, target_spread
from sigma_jax.objective.sigma import sharded_symmetric_loss
from sigma_jax.objective.targets import feature_targets, pixel_targets, teacher_frames
from sigma_jax.ops.masking import sample_mask
from sigma_jax.ops.scores import Sweeps, platform_sweeps
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.config import read_section
from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.errors import InvalidValue, UserError
from sigma_jax.runtime.random import Moment, stream
from sigma_jax.runtime.sharding import BATCH_AXES, replicated, shard_batch, traced_on
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks import cost
from sigma_jax.tasks.base import (
    Batch,
    Examples,
    Loss,
    Place,
    Reading,
    Task,
    TaskCost,
    reading_of,
)
from sigma_jax.weights.frozen import EncoderAlone, video_features

BATCH_PER_DEVICE = 64  # clips in a batch of the k-NN evaluator
TARGETS = {  # name: (source of the targets, objective)
    "mlp": ("pixels", "sigma"),
    "dino": ("features", "sigma"),
    "pixel": ("pixels", "l2"),
    "feature": ("features", "l2"),
    "learned": ("pixels", "learned_l2"),
}


@dataclasses.dataclass(frozen=True)
class SigmaSettings:
    """Settings of the symmetric loss (Salehi et al. 2024, sections 3.2 and 3.3).

    Attributes:
      num_prototypes: K.
      epsilon, num_iters: entropy regularisation and sweeps of Sinkhorn.
      temperature: of the softmax.
      assignments: 'hard' or 'soft'.
      sweeps: how scores are stored and read.
      queue_batches, queue_start: micro-batches in the feature queue, and before it is used
        (objective/feature_queue.py).
    """

    num_prototypes: int = 3000
    epsilon: float = 0.05
    num_iters: int = 10
    temperature: float = 0.1
    assignments: str = "hard"
    sweeps: Sweeps = Sweeps()
    queue_batches: int = 0
    queue_start: int = 0

    def __post_init__(self):
        if self.queue_batches < 0 or self.queue_start < 0:
            raise InvalidValue(
                f"queue_batches={self.queue_batches}, queue_start={self.queue_start}: expected 0 or more"
            )
        if self.num_prototypes < 2:
            raise InvalidValue(f"num_prototypes={self.num_prototypes}: expected at least 2")


@dataclasses.dataclass(frozen=True)
class PretrainData:
    """The training clips, drawn at random from a split; labels are not used."""

    split: str = "train"
    frame_stride: int = 4
    crop: str = "multi_scale"  # one of data.clips.CROPS
    reading: Reading = Reading()


@dataclasses.dataclass(frozen=True)
class KnnSettings:
    """k-NN on frozen features during training, with two small labelled splits of the run's data folder.

    Attributes:
      every: interval.
      bank_split: split of the feature bank.
      test_split: split of the queries.
      k: neighbours that vote.
    """

    every: Duration
    bank_split: str = "bank"
    test_split: str = "val"
    k: int = 200


@dataclasses.dataclass(frozen=True)
class SegmentationSettings:
    """Clustering of a few annotated clips during training.

    Attributes:
      every: interval.
      folder: of the clips, relative to the data folder or absolute.
      layout, split: see evals.segmentation.layouts.open_sequences; "": the layout's default split.
      num_clips: largest number of clips.
    """

    every: Duration
    folder: str = "segmentation"
    layout: str = "folder"
    split: str = ""
    num_clips: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainTask(Task):
    """SIGMA-MLP, SIGMA-DINO, the VideoMAE control, feature regression and the collapse control.

    Attributes:
      target: one of TARGETS, which chooses between these.
      sigma: settings of the symmetric loss.
      projection_widths: of the projection network.
      normalize_targets: whether pixel targets are standardised per tube.
      mask_kind: one of ops.masking.MASK_KINDS.
      data: the training clips.
      knn, segmentation: evaluators during training; None: without.
    """

    target: str = "mlp"
    sigma: SigmaSettings = SigmaSettings()
    projection_widths: tuple[int, ...] = (1024, 1024, 512, 256)
    normalize_targets: bool = True
    mask_kind: str = "tube"
    data: PretrainData = PretrainData()
    knn: KnnSettings | None = None
    segmentation: SegmentationSettings | None = None

    drawn_params = ("projection", "prototypes")

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh, compute: Compute) -> Self:
        model, objective, data = config.model, config.objective, config.data
        source, kind = lookup(TARGETS, objective.target, "target")
        if objective.queue_batches and kind != "sigma":
            raise InvalidValue(
                f"objective.queue_batches={objective.queue_batches}: target {objective.target!r} has no Sinkhorn; use 0"
            )
        sweeps = platform_sweeps(mesh.devices.flat[0].platform, objective.sweep_dtype)
        sigma = {"sweeps": sweeps, "queue_start": objective.queue_start_batches}
        return cls(
            mesh=mesh,
            grid=TubeGrid(model.num_frames, model.image_size, tuple(model.tube_size), objective.mask_ratio),
            size=lookup(VIDEO_SIZES, model.size, "model size"),
            positions=model.positions,
            compute=compute,
            teacher=lookup(TEACHER_SIZES, objective.teacher, "teacher") if source == "features" else None,
            target=objective.target,
            sigma=read_section(SigmaSettings, objective, **sigma),
            projection_widths=tuple(objective.projection_widths),
            normalize_targets=objective.normalize_targets,
            mask_kind=objective.mask_kind,
            data=read_section(PretrainData, data, reading=reading_of(data)),
            knn=read_section(KnnSettings, config.evals.knn),
            segmentation=read_section(SegmentationSettings, config.evals.segmentation)
            if "segmentation" in config.evals  # recorded configs of earlier versions lack this section
            else None,
        )

    @property
    def summary(self) -> str:
        return f"target {self.target}"

    @property
    def source(self) -> str:
        """'pixels' or 'features'."""
        return lookup(TARGETS, self.target, "target")[0]

    @property
    def objective(self) -> str:
        """'sigma', 'l2', or 'learned_l2' (L2 on the projections of a network trained with it: collapses)."""
        return lookup(TARGETS, self.target, "target")[1]

    @property
    def target_width(self) -> int:
        """E, the width of predictions."""
        if self.source == "features":
            return self.teacher.width
        return self.grid.tube_dim if self.objective == "l2" else self.projection_widths[-1]

    @property
    def trains_projection(self) -> bool:
        """Whether targets pass through a projection network that is trained."""
        return self.source == "pixels" and self.objective != "l2"

    @property
    def model(self) -> PretrainModel:
        return PretrainModel(
            self.grid,
            self.size,
            self.target_width,
            projection_widths=self.projection_widths if self.trains_projection else (),
            positions=self.positions,
            compute=self.compute,
        )

    @property
    def _teacher_model(self) -> DinoVit:
        compute = self.compute
        form = {"dtype": compute.dtype, "backend": compute.backend, "unroll": compute.unroll}
        return DinoVit(self.teacher, fp8=compute.teacher_fp8, **form)

    def init(self, key: jax.Array) -> Params:
        grid = self.grid
        video = jnp.zeros((1, grid.num_frames, *grid.image_shape, 3), jnp.uint8)
        idx = jnp.arange(grid.num_tubes)[None]
        params = self.model.init(key, video, idx[:, : grid.num_visible], idx[:, grid.num_visible :])["params"]
        if self.objective == "sigma":
            params |= Prototypes(self.sigma.num_prototypes, self.target_width).init(key)["params"]
        return params

    def init_frozen(self, key: jax.Array) -> Params:
        if self.source != "features":
            return {}
        image = jnp.zeros((1, *self.grid.image_shape, 3), jnp.uint8)
        return self._teacher_model.init(key, image)["params"]

    def init_memory(self, clips: int) -> Params:
        if self.objective != "sigma" or not self.sigma.queue_batches:
            return {}
        return empty_queue(self.sigma.queue_batches, clips * self.grid.num_masked, self.target_width)

    def constrain(self, params: Params) -> Params:
        return constrain(params)

    def loss(self, params: Params, frozen: Params, batch: Batch, seed: int, step: Moment) -> Loss:
        """The loss of a batch, in the order of the paper; see Task.loss.

        Args:
          batch: 'video' [B F H W 3]; optional 'visible_idx' and 'masked_idx' (otherwise drawn from (seed, step)),
            'teacher_features' [B N E] (otherwise computed by the frozen teacher), and 'memory' (the feature queue).
        """
        video = batch["video"]
        # 1) Hide tubes.
        if "masked_idx" in batch:
            visible_idx, masked_idx = batch["visible_idx"], batch["masked_idx"]
        else:
            visible_idx, masked_idx = sample_mask(stream(seed, "mask", step), len(video), self.grid, self.mask_kind)
        # 2) Targets at the hidden tubes.
        targets = self.targets(frozen, batch, masked_idx)
        # 3) Predictions of the video model at the hidden tubes.
        variables = {"params": params}
        predictions = self.model.apply(variables, video, visible_idx, masked_idx)
        if self.objective == "l2":
            return reconstruction_loss(predictions, targets), {}
        projections = self.model.apply(variables, targets, method="project")
        if self.objective == "learned_l2":  # a constant minimises this loss: the collapse that SIGMA prevents
            return reconstruction_loss(predictions, projections), {"target_spread": target_spread(projections)}
        # 4) Assign both to prototypes; each predicts the other's assignment.
        settings = dict(vars(self.sigma))
        del settings["num_prototypes"], settings["queue_batches"]
        objective = sharded_symmetric_loss(self.mesh, BATCH_AXES, **settings)
        loss, metrics, queue = objective(predictions, projections, params["prototypes"], batch.get("memory"))
        return loss, metrics if queue is None else metrics | {"memory": queue}

    def targets(self, frozen: Params, batch: Batch, masked_idx: jax.Array) -> jax.Array:
        """Targets at the hidden tubes: normalised pixels [B M P] or teacher features [B M E], without gradient."""
        video = batch["video"]
        if self.source == "pixels":
            return pixel_targets(video, masked_idx, self.grid, normalize=self.normalize_targets)
        features = batch.get("teacher_features")
        if features is None:
            images = teacher_frames(video, self.grid.tube_size[0])
            tokens = self._teacher_model.apply({"params": frozen}, images)
            maps = tube_features(tokens, self.teacher, self.grid.shape[1:])
            features = rearrange(maps, "(B t) n E -> B (t n) E", B=len(video))
        return feature_targets(jax.lax.stop_gradient(features), masked_idx)

    def facts(self, data_dir: str) -> dict[str, Any]:
        found = super().facts(data_dir) | dataclasses.asdict(self.size)
        found |= {"final_norm": True, "frame_stride": self.data.frame_stride}
        predicts_pixels = self.source == "pixels" and self.objective == "l2"
        return found | ({"normalize_targets": self.normalize_targets} if predicts_pixels else {})

    # Costs.

    @property
    def cost(self) -> TaskCost:
        """Encoder over visible tubes, decoder over all, and the two fp32 score matrices."""
        grid, size, sigma = self.grid, self.size, self.sigma
        tokens = size.depth * grid.num_visible * size.width + size.decoder_depth * grid.num_tubes * size.decoder_width
        saved = cost.saved_bytes(tokens, self.compute)
        if self.objective != "sigma":
            return TaskCost(grid.num_visible, grid.num_masked, saved)
        saved += 4 * 2 * grid.num_masked * sigma.num_prototypes
        queue = (sigma.queue_batches, max(sigma.queue_start, sigma.queue_batches)) if sigma.queue_batches else ()
        return TaskCost(grid.num_visible, grid.num_masked, saved, sigma.num_prototypes, *queue)

    def flops(self) -> dict[str, float]:
        grid, size = self.grid, self.size
        tubes, visible, hidden, target = grid.num_tubes, grid.num_visible, grid.num_masked, self.target_width
        decoder = visible * size.width * size.decoder_width + hidden * size.decoder_width * target
        decoder += size.decoder_depth * cost.block_macs(tubes, size.decoder_width)
        macs = {
            "embed": 2 * tubes * grid.tube_dim * size.width,
            "encoder": 3 * size.depth * cost.block_macs(visible, size.width),
            "decoder": 3 * decoder,
            "teacher": cost.teacher_macs(self.teacher, grid) if self.source == "features" else 0,
            "projection": 0,
            "scores": 0,
        }
        if self.trains_projection:
            widths = (grid.tube_dim, *self.projection_widths)
            layers = [hidden * a * b for a, b in zip(widths, widths[1:], strict=False)]
            macs["projection"] = 3 * sum(layers) - layers[0]
        if self.objective == "sigma":
            # Two products forward; backward one each (prototypes learn from one side, features from the other), and
            # one more where the projection network learns too.
            macs["scores"] = (4 + self.trains_projection) * hidden * self.sigma.num_prototypes * target
        return {part: 2.0 * count for part, count in macs.items()}

    def traffic(self, clips: int, num_params: int) -> dict[str, float]:
        """See Task.traffic; Sinkhorn reads the 16-bit scores of each side once per iteration."""
        grid, size, target = self.grid, self.size, self.target_width
        tubes, visible, hidden = grid.num_tubes, grid.num_visible, grid.num_masked
        width, narrow = size.width, size.decoder_width
        decoder = (size.decoder_depth - 1) * cost.block_traffic(tubes, narrow, clips)
        decoder += cost.block_traffic(tubes, narrow, clips, outputs=hidden)
        found = {
            "input": 3.0 * tubes * grid.tube_dim,  # bytes read, 16 bits written
            "encoder": 4 * visible * (grid.tube_dim + width) + size.depth * cost.block_traffic(visible, width, clips),
            "decoder": 6 * visible * (width + narrow) + decoder + 6 * hidden * (narrow + target),
            "teacher": cost.teacher_traffic(self.teacher, grid, clips) if self.source == "features" else 0.0,
            "projection": 0.0,
            "scores": 0.0,
            "sinkhorn": 0.0,
            "optimizer": cost.OPTIMIZER * num_params / clips,
        }
        if self.trains_projection:
            widths = (grid.tube_dim, *self.projection_widths)
            for a, b in zip(widths, widths[1:], strict=False):
                found["projection"] += 2 * hidden * (3 * a + 8 * b) + 10 * a * b / clips
        if self.objective == "sigma":
            prototypes = self.sigma.num_prototypes
            products = 4 + self.trains_projection  # as in flops: two forward, the rest write no scores but read them
            found["scores"] = products * 2 * hidden * target + (products - 2) * 2 * hidden * prototypes
            passes = 2 + 2 * self.sigma.num_iters + 2 + 4  # of the scores; cross-entropy reads and writes the last four
            found["sinkhorn"] = 2 * passes * hidden * prototypes
        return found

    # Data, evaluators and pictures.

    def open_data(self, place: Place, batch_size: int, seed: int) -> Loader:
        clips = self.clips(self.data.crop)
        return self.data.reading.open_training(place, self.data.split, clips, batch_size, seed)

    def clips(self, crop: str) -> ClipSpec:
        """The form of the clips; `crop` is one of data.clips.CROPS."""
        return ClipSpec(self.grid.num_frames, self.data.frame_stride, self.grid.image_shape[0], crop)

    def evaluators(self, place: Place) -> tuple[Evaluator, ...]:
        """k-NN and segmentation; an evaluator without its clips is left out with a warning."""
        return (*self._knn_monitor(place), *self._segmentation_monitor(place))

    def _segmentation_monitor(self, place: Place) -> tuple[Evaluator, ...]:
        """The evaluator of clustering mIoU; () if it is off, or its clips cannot be read."""
        asked = self.segmentation
        if asked is None or not asked.every.amount:
            return ()
        height, _ = self.grid.image_shape
        settings = ClusteringSettings(num_frames=self.grid.num_frames, image_size=height, draw="linspace", seeds=(0,))
        try:
            data = open_sequences(Path(place.data_dir) / asked.folder, asked.layout, asked.split or None)
            clips, left_out = read_clips(data, settings, asked.num_clips)
            for note in left_out:
                logging.warning("segmentation monitor: %s is left out: %s", note.sequence, note.sentence)
            tokens, shape = frozen_features(self, pool=False), self.grid.shape

            def dense(params: Params, video: np.ndarray) -> jax.Array:
                rows = -(-len(video) // self.mesh.size) * self.mesh.size  # padded to a multiple of the devices
                padded = np.concatenate([video, np.repeat(video[-1:], rows - len(video), axis=0)])
                found = tokens(params, shard_batch(self.mesh, {"video": own_rows(padded)})["video"])
                return rearrange(found[: len(video)], "B (t h w) D -> B t h w D", t=shape[0], h=shape[1], w=shape[2])

            return (ClusteringEvaluator(dense, clips, settings, every=asked.every),)
        except (UserError, OSError) as error:
            logging.warning("segmentation is not measured: %s (evals.segmentation.every_steps=0 turns it off)", error)
            return ()

    def _knn_monitor(self, place: Place) -> tuple[Evaluator, ...]:
        if self.knn is None or not self.knn.every.amount:
            return ()
        batch_size = BATCH_PER_DEVICE * self.mesh.size
        splits = self.knn.bank_split, self.knn.test_split
        try:
            for split in splits:
                central_clips(self, place.data_dir, split, batch_size).close()
            asked = labellings(place.data_dir)
        except (DataSetError, FileNotFoundError, ValueError) as error:
            logging.warning("k-NN is not measured: %s (evals.knn.every_steps=0 turns it off)", error)
            return ()
        features = frozen_features(self)

        def own_features(params: Params, video: np.ndarray) -> jax.Array:
            return features(params, shard_batch(self.mesh, {"video": own_rows(video)})["video"])

        def clips(split: str) -> Loader:
            return central_clips(self, place.data_dir, split, batch_size)

        kept = functools.cache(lambda split: list(clips(split)))  # the same each time, and slow to decode
        bank, test = (partial(kept if self.data.reading.cache_decoded else clips, split) for split in splits)
        return (FrozenFeatures(own_features, bank, test, asked, k=self.knn.k, linear=False, every=self.knn.every),)

    def examples(self, place: Place, num_clips: int, seed: int, weights: tuple[Params, Params]) -> Examples:
        order, clips = Shuffled(seed, max_bad_fraction=1.0), self.clips(self.data.crop)
        decoding = self.data.reading.decoding
        loader = open_loader(LoaderSpec(place.data_dir, self.data.split, clips, order, num_clips, decoding=decoding))
        video = next(loader)["video"]
        loader.close()
        _, masked_idx = sample_mask(stream(seed, "report"), len(video), self.grid, self.mask_kind)
        scores = None
        if self.objective == "sigma":
            scores = np.asarray(jax.jit(self._projection_scores)(*weights, video, masked_idx))
        return Examples(video, np.asarray(masked_idx), scores)

    def _projection_scores(self, params: Params, frozen: Params, video: jax.Array, masked_idx: jax.Array) -> jax.Array:
        """Cosine similarities of the hidden tubes' projections to the prototypes, [B M K]."""
        params = constrain(params)
        targets = self.targets(frozen, {"video": video}, masked_idx)
        projections = self.model.apply({"params": params}, targets, method="project")
        flat = cosine_scores(projections.reshape(-1, projections.shape[-1]), params["prototypes"])
        return flat.reshape(*masked_idx.shape, -1)


def own_rows(video: np.ndarray) -> np.ndarray:
    """This process's rows of a batch that all processes hold."""
    rows = len(video) // jax.process_count()
    return video[jax.process_index() * rows :][:rows]


def central_clips(task: PretrainTask, data_dir: str, split: str, batch_size: int) -> Loader:
    """Opens one pass over a split with one central clip per video; every process reads all of it."""
    clips = task.clips("none" if task.data.crop == "none" else "center")
    decoding = task.data.reading.decoding
    return open_loader(LoaderSpec(data_dir, split, clips, OnePass(), batch_size, decoding=decoding))


def frozen_features(task: PretrainTask, *, pool: bool = True) -> Callable[[Params, jax.Array], jax.Array]:
    """A function of parameters and video uint8 [B F y x 3] that returns mean latents [B D], fp32, on every process.

    With pool=False it returns the latents of all tubes, [B N D].
    """
    encoder = EncoderAlone(task.grid, task.size, task.positions, compute=task.compute)
    features = traced_on(task.mesh, partial(video_features, encoder, "mean" if pool else None))
    compiled = jax.jit(features, out_shardings=replicated(task.mesh))
    return lambda params, video: compiled({"encoder": params["encoder"]}, video)


TASK = PretrainTask
