"""Frozen models: the Flax module that weights describe, with strictly checked parameters, and its features.

Letters: B clips, F frames, y x pixels, N tubes, T patch tokens, D width.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from einops import rearrange

from sigma_jax.data import augment, sampling
from sigma_jax.models.attentive import AttentivePool
from sigma_jax.models.classifier import VideoClassifier
from sigma_jax.models.compute import Compute
from sigma_jax.models.dino import DinoVit
from sigma_jax.models.encoder import Encoder
from sigma_jax.models.pretrain import PretrainModel
from sigma_jax.models.sizes import TeacherSize, VideoSize
from sigma_jax.models.transformer import LayerNorm
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.compilation import quick_compilation
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import stream
from sigma_jax.weights.facts import require_heads
from sigma_jax.weights.formats import read_weights
from sigma_jax.weights.loading import LoadReport, fit, say
from sigma_jax.weights.weights_file import Weights, unflatten

FLOAT32 = Compute()
FRAME_STRIDE = 4  # of the published Kinetics recipe, for weights that do not record theirs


def video_size(sizes: dict[str, Any]) -> VideoSize:
    """Sizes of a video model; without a decoder its numbers are 0 and 1."""
    return VideoSize(
        sizes["width"],
        sizes["depth"],
        sizes["num_heads"],
        sizes.get("decoder_width", 0),
        sizes.get("decoder_num_heads", 1),
        sizes.get("decoder_depth", 0),
    )


def teacher_size(sizes: dict[str, Any]) -> TeacherSize:
    """Sizes of a teacher, the layout of its position table included."""
    return TeacherSize(**sizes | {"position_grid": tuple(sizes["position_grid"])})


def module_of(weights: Weights, grid: TubeGrid | None = None, compute: Compute = FLOAT32) -> nn.Module:
    """The Flax module to which `weights` belong.

    Args:
      weights: of any kind.
      grid: tube grid of a video model; None for that of its training (16 frames of 224 if the file records none).
      compute: type and implementation of the arithmetic.
    """
    require_heads(weights)
    sizes = weights.sizes
    if weights.kind == "teacher":
        return DinoVit(teacher_size(sizes), dtype=compute.dtype, backend=compute.backend)
    grid = grid or grid_of(sizes, sizes["num_frames"], sizes["image_size"])
    size, positions = video_size(sizes), sizes["positions"]
    if weights.kind == "classifier":
        pooling = sizes["pooling"]
        return VideoClassifier(grid, size, sizes["num_classes"], pooling=pooling, positions=positions, compute=compute)
    if weights.kind == "encoder":
        return EncoderAlone(grid, size, positions, sizes["final_norm"], compute)
    return PretrainModel(
        grid,
        size,
        sizes["target_width"],
        projection_widths=sizes["projection_widths"],
        positions=positions,
        final_norm=sizes["final_norm"],
        compute=compute,
    )


class EncoderAlone(nn.Module):
    """An encoder without a decoder or head, as a module whose parameters are named as in the other video models."""

    grid: TubeGrid
    size: VideoSize
    positions: str = "sincos_1d"
    final_norm: bool = True
    compute: Compute = Compute()
    position_grid: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, video: jax.Array) -> jax.Array:
        """video [B F y x 3] (uint8, or float in [0, 1]) -> latents [B N D]."""
        options = {"final_norm": self.final_norm, "position_grid": self.position_grid}
        encoder = Encoder(self.grid, self.size, self.positions, self.compute, **options, name="encoder")
        return encoder(video)


def grid_of(sizes: dict[str, Any], num_frames: int, image_size: int | tuple[int, int]) -> TubeGrid:
    """The tube grid of a clip of any size (its mask ratio of one half is not used by frozen models)."""
    return TubeGrid(num_frames, image_size, tuple(sizes["tube_size"]), 0.5)


def abstract_params(module: nn.Module, weights: Weights) -> dict:
    """Shapes of the parameters of the module and of its objective; nothing is allocated."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *_inputs(module, weights))["params"]
    if weights.kind == "pretrain" and weights.sizes["num_prototypes"]:
        prototypes = weights.sizes["num_prototypes"], weights.sizes["target_width"]
        shapes["prototypes"] = jax.ShapeDtypeStruct(prototypes, jnp.float32)
    return shapes


def _inputs(module: nn.Module, weights: Weights) -> tuple[jax.ShapeDtypeStruct, ...]:
    if weights.kind == "teacher":
        side = weights.sizes["patch_size"]
        inputs = (jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),)
    else:
        grid = module.grid
        inputs = (jax.ShapeDtypeStruct((1, grid.num_frames, *grid.image_shape, 3), jnp.float32),)
        if weights.kind == "pretrain":
            counts = (grid.num_visible, grid.num_masked)
            inputs += tuple(jax.ShapeDtypeStruct((1, count), jnp.int32) for count in counts)
    return inputs


def check(weights: Weights) -> LoadReport:
    """Checks that `weights` are exactly the parameters of the model that their sizes describe.

    Raises:
      WeightsMismatch: parameters are missing, unexpected, of another shape or not finite; the message lists them.
    """
    return fit(weights, abstract_params(module_of(weights), weights))[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A model with its weights, ready for features.

    Attributes:
      module, params: the Flax module and its parameters.
      weights: as they were read, with all facts.
      report: which parameters were loaded.
      compute: type and implementation of the arithmetic.
    """

    module: nn.Module
    params: dict
    weights: Weights
    report: LoadReport
    compute: Compute = Compute()

    @property
    def identity(self) -> dict[str, Any]:
        """JSON that decides the features of a clip: content of the weights, all facts, and the type of the arithmetic.

        The content alone does not: equal arrays with another number of heads are another model.
        """
        weights = self.weights
        dtype = str(jnp.dtype(self.compute.dtype))
        return {"weights": weights.digest(), "kind": weights.kind, "sizes": weights.sizes, "dtype": dtype}

    @property
    def width(self) -> int:
        """Length D of a feature."""
        return self.weights.sizes["width"]

    @property
    def frame_stride(self) -> int:
        """Distance of neighbouring frames of a clip in training; 4, of the Kinetics recipe, if it is not recorded."""
        return self.weights.sizes.get("frame_stride") or FRAME_STRIDE

    def preprocess(self, frames: np.ndarray, num_frames: int | None = None, stride: int | None = None) -> np.ndarray:
        """Makes a clip as in training, uint8 [1 F y x 3], of one video uint8 [F y x 3] of any length and size.

        `num_frames` frames in the middle of the video, `stride` apart, are resized so that the short side has the
        training size, and cropped at the centre. Pixels stay 0..255: the model standardises them itself.

        Args:
          frames: the video.
          num_frames, stride: None for those of training.

        Raises:
          InvalidValue: not a video of this form.
        """
        frames = np.asarray(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise InvalidValue(f"a video is {frames.dtype} {frames.shape}, expected uint8 [F y x 3]")
        sizes = self.weights.sizes
        side, num_frames = sizes.get("image_size", 224), num_frames or sizes.get("num_frames", 16)
        wanted = sampling.center_indices(len(frames), num_frames, stride or self.frame_stride)
        return augment.center_crop_resize(frames[wanted], side if isinstance(side, int) else min(side))[None]

    def features(self, video: jax.Array | np.ndarray, *, pool: bool = True) -> jax.Array:
        """Features of clips.

        F, y and x may be any multiples of the tube: sin-cos positions are computed for them, and the learned positional
        embedding of a teacher is resized.

        Args:
          video: [B F y x 3], uint8 0..255 or float in [0, 1].
          pool: False returns every token: latents of the tubes, or patch tokens of a teacher, in the order time, row,
            column.

        Returns:
          fp32 [B D], the mean over tubes; of a classifier the input of its head; of a teacher the mean of the cls token
          over frames. Without pooling [B n D].

        Raises:
          InvalidValue: other axes, or a clip that is not a whole number of tubes.
        """
        shape = self._shape(video)
        self._say_new_grid(shape)
        return self._function(_View(shape, pool))(self.params, video)

    @property
    def token_size(self) -> int:
        """Side in pixels of the square that a token covers."""
        sizes = self.weights.sizes
        return sizes["patch_size"] if self.weights.kind == "teacher" else sizes["tube_size"][1]

    @property
    def frames_per_step(self) -> int:
        """Frames that a token covers: 1 for a teacher, the length of a tube for a video model."""
        return 1 if self.weights.kind == "teacher" else self.weights.sizes["tube_size"][0]

    @property
    def has_final_norm(self) -> bool:
        """Whether the weights have a norm of the last block's tokens (that of a classifier norms their mean)."""
        return self.weights.kind == "teacher" or bool(self.weights.sizes.get("final_norm"))

    def dense_features(
        self, video: jax.Array | np.ndarray, *, final_norm: bool = True, resize_positions: bool = False
    ) -> jax.Array:
        """Tokens in their grid, fp32 [B t h w D].

        A video model has one time step t per tube, a teacher one per frame.

        Args:
          video: [B F y x 3], uint8 0..255 or float in [0, 1].
          final_norm: False returns the last block's output before the final norm.
          resize_positions: whether for frames of another size the sin-cos positions of training are resized in space,
            instead of being computed for the new grid. Those of a teacher are always resized.

        Raises:
          InvalidValue: other axes, or a clip that is not a whole number of tubes.
        """
        shape = self._shape(video)
        t, h, w = self.token_grid(shape)
        if not resize_positions:
            self._say_new_grid(shape)
        view = _View(shape, False, final_norm, resize_positions)
        tokens = self._function(view)(self.params, video)
        return rearrange(tokens, "B (t h w) D -> B t h w D", t=t, h=h, w=w)

    def token_grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(t, h, w) of the tokens of a clip of `shape` (frames, rows, columns).

        Raises:
          InvalidValue: the shape is not a whole number of tubes.
        """
        sizes = self.weights.sizes
        if self.weights.kind == "teacher":
            return shape[0], *(n // sizes["patch_size"] for n in shape[1:])
        return grid_of(sizes, shape[0], shape[1:]).shape

    def _shape(self, video: jax.Array | np.ndarray) -> tuple[int, int, int]:
        if np.ndim(video) != 5 or video.shape[-1] != 3:
            raise InvalidValue(f"video has shape {np.shape(video)}, expected [B F y x 3] with colours last")
        shape = tuple(int(n) for n in video.shape[1:4])
        self.token_grid(shape)
        return shape

    def _say_new_grid(self, shape: tuple[int, int, int]) -> None:
        sizes = self.weights.sizes
        if self.weights.kind == "teacher":
            old, new = sizes["position_grid"], self.token_grid(shape)[1:]
            what = "the learned position table is resized"
        else:
            old, new = self.module.grid.shape, self.token_grid(shape)
            what = "sin-cos positions are computed anew"
        if tuple(old) != new:
            logging.log_first_n(logging.INFO, "positions: grid %s, weights %s: %s", 1, new, tuple(old), what)

    def _function(self, view: "_View") -> Callable[[dict, jax.Array | np.ndarray], jax.Array]:
        if self.weights.kind == "teacher":
            return functools.partial(_teacher_features, self.module, view)
        sizes = self.weights.sizes
        grid = grid_of(sizes, view.shape[0], view.shape[1:])
        final_norm = self.has_final_norm and view.final_norm
        position_grid = self.module.grid.shape[1:] if view.resize_positions else None
        encoder = EncoderAlone(
            grid, video_size(sizes), sizes["positions"], final_norm, self.compute, position_grid=position_grid
        )
        pooling = sizes.get("pooling", "mean") if view.pool else None

        def features(params: dict, video: jax.Array | np.ndarray) -> jax.Array:
            used = {name: params[name] for name in ("encoder", "pool", "norm") if name in params}
            return _video_features(encoder, pooling, used, video)

        return features


@dataclasses.dataclass(frozen=True)
class _View:
    """The form of the features of clips of `shape` (frames, rows, columns)."""

    shape: tuple[int, int, int]
    pool: bool
    final_norm: bool = True
    resize_positions: bool = False


def video_features(encoder: EncoderAlone, pooling: str | None, params: dict, video: jax.Array) -> jax.Array:
    """Latents [B N D], or (with `pooling`) [B D], pooled and normalised as in a classifier."""
    latents = encoder.apply({"params": {"encoder": params["encoder"]}}, video).astype(jnp.float32)
    if pooling is None:
        return latents
    if pooling == "attentive":
        pool = AttentivePool(encoder.size.num_heads, nn.initializers.zeros, encoder.compute.dtype)
        pooled = pool.apply({"params": params["pool"]}, latents)
    else:
        pooled = latents[:, 0] if pooling == "first" else jnp.mean(latents, axis=1)
    return LayerNorm().apply({"params": params["norm"]}, pooled) if "norm" in params else pooled


# Compiled once for all models of one form, whatever their parameters.
_video_features = jax.jit(video_features, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _teacher_features(teacher: DinoVit, view: _View, params: dict, video: jax.Array) -> jax.Array:
    images = rearrange(video, "B F y x c -> (B F) y x c")
    if view.final_norm:
        tokens = teacher.apply({"params": params}, images)
    else:
        tokens = teacher.apply({"params": params}, images, collect=True)["blocks"][-1].astype(jnp.float32)
    if view.pool:
        return jnp.mean(rearrange(tokens[:, 0], "(B F) D -> B F D", B=len(video)), axis=1)
    patches = tokens[:, 1 + teacher.size.num_registers :]
    return rearrange(patches, "(B F) T D -> B (F T) D", B=len(video))


def load(
    path: str | Path,
    *,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    weights: str = "model",
    compute: Compute = FLOAT32,
) -> Pretrained:
    """Loads a model from a file or folder in any format (weights/formats.py), strictly.

    Args:
      path: the file or folder.
      num_heads, decoder_num_heads: needed if the file does not record them and they are not width / 64.
      weights: 'ema' for the moving average of the weights, if the file holds it.
      compute: type and implementation of the arithmetic.

    Raises:
      FileNotFoundError, ValueError: each says what was found and what was expected.
    """
    found = read_weights(path, num_heads=num_heads, decoder_num_heads=decoder_num_heads, which=weights)
    module = module_of(found, compute=compute)
    loaded, report = fit(found, abstract_params(module, found))
    say(report)
    return Pretrained(module, jax.tree.map(jnp.asarray, unflatten(loaded)), found, report, compute)


def untrained(model: Pretrained, seed: int = 0) -> Pretrained:
    """The model with the random weights with which a pre-training run of this seed starts."""
    init = _random_params(model.module, _inputs(model.module, model.weights))
    return dataclasses.replace(model, params=init(stream(seed, "init")))


@functools.cache
def _random_params(module: nn.Module, inputs: tuple[jax.ShapeDtypeStruct, ...]) -> Callable[[jax.Array], dict]:
    """A compiled function from a key to the parameters of a module, the same one for models of one form."""

    def init(key: jax.Array) -> dict:
        return module.init(key, *(jnp.zeros(leaf.shape, leaf.dtype) for leaf in inputs))["params"]

    return jax.jit(init, compiler_options=quick_compilation())
