"""Clustering and overclustering scores of clips from their features, one batch in memory at a time.

Letters: F frames, y x pixels, t token steps, h w token grid, D width.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from einops import rearrange

from sigma_jax.evals.segmentation import clustering, frames, matching
from sigma_jax.evals.segmentation.layouts import BadSequence, DataSet, Note
from sigma_jax.evals.segmentation.settings import ClusteringSettings
from sigma_jax.runtime.durations import Duration
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.trees import Params


class DenseModel(Protocol):
    """The interface of a frozen model that segmentation uses; `sigma_jax.load` returns such a model.

    Attributes:
      token_size: side in pixels of the square that a token covers.
      frames_per_step: frames that a token covers.
    """

    token_size: int
    frames_per_step: int

    def dense_features(self, video: np.ndarray, *, final_norm: bool, resize_positions: bool) -> np.ndarray:
        """Tokens [B t h w D] of clips [B F y x 3]; see weights/frozen.py."""
        ...


@dataclasses.dataclass(frozen=True)
class TubePixels:
    """What needs no network, a DenseModel: the feature of a token is the pixels of its tube, in [0, 1]."""

    token_size: int
    frames_per_step: int

    def dense_features(
        self, video: np.ndarray, *, final_norm: bool = True, resize_positions: bool = False
    ) -> np.ndarray:
        """As DenseModel; pixels have neither norms nor positions."""
        size = {"p": self.frames_per_step, "Y": self.token_size, "X": self.token_size}
        scale = 255 if video.dtype == np.uint8 else 1
        return rearrange(np.float32(video), "B (t p) (h Y) (w X) c -> B t h w (p Y X c)", **size) / scale


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredClip:
    """The result of one protocol for a clip.

    Attributes:
      clip: the clip.
      protocol: 'clustering' or 'overclustering'.
      num_clusters: of k-means.
      cluster_map: int16 [F y x].
      match: clusters and objects.
    """

    clip: frames.Clip
    protocol: str
    num_clusters: int
    cluster_map: np.ndarray
    match: matching.MatchedClip

    @property
    def numbers(self) -> dict[str, float | int | list]:
        """The numbers for result.json; scores in [0, 1]."""
        return {
            "miou": self.match.miou,
            "miou_without_background": self.match.miou_without_background,
            "num_clusters": self.num_clusters,
            "objects": self.match.objects.tolist(),
            "iou": self.match.iou.tolist(),
        }


def clip_tokens(model: DenseModel, video: np.ndarray, settings: ClusteringSettings) -> np.ndarray:
    """Features of one clip uint8 [F y x 3], float32 [t h w D].

    Raises:
      ValueError: the frames are no whole number of tubes.
    """
    if settings.timet_std:  # the model divides by .229: its input is changed so that the result is that of .228
        scale = np.array((0.229, 0.224, 0.225)) / frames.STD_TIMET
        video = (frames.MEAN + (video / 255 - frames.MEAN) * scale).astype(np.float32)
    features = model.dense_features(video[None], final_norm=settings.final_norm, resize_positions=False)
    return np.asarray(features, np.float32)[0]


def score_batch(
    clips: Sequence[frames.Clip], tokens: Sequence[np.ndarray], protocols: Sequence[str], settings: ClusteringSettings
) -> Iterator[list[ScoredClip]]:
    """Clusters and matches clips whose features are standardised and reduced together.

    Args:
      clips: of one size.
      tokens: [t h w D] of each, from `clip_tokens`.
      protocols: any of PROTOCOLS.

    Yields:
      for every clip a ScoredClip per protocol.
    """
    width = tokens[0].shape[-1]
    flat = [array.reshape(-1, width) for array in tokens]
    if settings.statistics == "batch":
        reduced = clustering.reduce_clips(flat, settings.dims)
    else:
        reduced = [clustering.reduce_tokens(rows, settings.dims) for rows in flat]
    for clip, rows, array in zip(clips, reduced, tokens, strict=True):
        features = rows.reshape(*array.shape[:3], -1)
        aligned, clip = _aligned(features, clip, settings.time)
        yield [_score(clip, aligned, protocol, settings) for protocol in protocols]


def _aligned(features: np.ndarray, clip: frames.Clip, how: str) -> tuple[np.ndarray, frames.Clip]:
    """(features [F h w d], clip) with one map per scored frame, from maps of token steps [t h w d]."""
    num_frames, steps = len(clip.video), len(features)
    if steps == num_frames:
        return features, clip
    if num_frames % steps:
        raise InvalidValue(f"{steps} token steps for {num_frames} frames: expected a divisor")
    per_step = num_frames // steps
    if how == "repeat":
        return np.repeat(features, per_step, axis=0), clip
    if how == "even":
        first = slice(None, None, per_step)
        numbers = clip.frame_numbers[first]
        return features, dataclasses.replace(
            clip, video=clip.video[first], labels=clip.labels[first], frame_numbers=numbers
        )
    weights = clustering.upsampling_matrix(steps, num_frames)
    return np.einsum("Ft,thwd->Fhwd", weights, features), clip


def _score(clip: frames.Clip, features: np.ndarray, protocol: str, settings: ClusteringSettings) -> ScoredClip:
    num_clusters = clip.num_objects if protocol == "clustering" else settings.num_clusters
    size = clip.labels.shape[1:]
    found = clustering.cluster_clip(features, num_clusters, size, settings.kmeans, upsampled=settings.upsampled)
    counts = clip.labels >= 0
    how = "hungarian" if protocol == "clustering" else settings.greedy
    match = matching.match_clip(clip.labels[counts], found[counts], how)
    return ScoredClip(clip, protocol, num_clusters, found, match)


def averages(scores: Sequence[float], settings: ClusteringSettings) -> dict[str, float]:
    """Means over clips in per cent by every kind of average, and under 'score' that of the settings."""
    both = {how: 100 * matching.average(scores, how, settings.batch_size) for how in matching.AVERAGES}
    return {"score": both[settings.average]} | both


def read_clips(data: DataSet, settings: ClusteringSettings, limit: int) -> tuple[list[frames.Clip], list[Note]]:
    """The first `limit` clips of a set that can be read, with the frames of the first seed, and notes on the others."""
    clips, left_out, size = [], list(data.left_out), (settings.image_size,) * 2
    for sequence in data.sequences:
        if len(clips) == limit:
            break
        draw = settings.num_frames, settings.draw, settings.seeds[0]
        numbers = frames.draw_frames(sequence.name, len(sequence.frames), *draw)
        try:
            clips.append(frames.read_clip(sequence, numbers, size, void=settings.void, categories=settings.categories))
        except BadSequence as error:
            left_out.append(Note(sequence.name, error.kind, str(error)))
    return clips, left_out


class ClusteringEvaluator:
    """Evaluator (evals/protocol.py) of the clustering mIoU of a few annotated clips during training.

    It yields `segmentation/<protocol>` in per cent. Standardisation, PCA and k-means use these clips only.
    """

    name, best_by = "segmentation", None

    def __init__(
        self,
        dense: Callable[[Params, np.ndarray], np.ndarray],
        clips: Sequence[frames.Clip],
        settings: ClusteringSettings,
        protocols: Sequence[str] = ("clustering",),
        every: Duration | None = None,
    ):
        """Args:
        dense: function of parameters and video uint8 [B F y x 3] that returns features [B t h w D].
        clips: annotated clips, at least one.
        settings: of the protocol.
        protocols: any of PROTOCOLS.
        every: interval during training.
        """
        if not clips:
            raise InvalidValue("no annotated clips to segment")
        self.dense, self.clips, self.settings = dense, clips, settings
        self.protocols, self.every = tuple(protocols), every

    def run(self, params: Params, step: int) -> Iterator[tuple[str, float]]:
        """See evals.protocol.Evaluator."""
        scores: dict[str, list[float]] = {protocol: [] for protocol in self.protocols}
        size = self.settings.batch_size
        for low in range(0, len(self.clips), size):
            clips = self.clips[low : low + size]
            tokens = np.asarray(self.dense(params, np.stack([clip.video for clip in clips])), np.float32)
            for entries in score_batch(clips, list(tokens), self.protocols, self.settings):
                for scored in entries:
                    scores[scored.protocol].append(scored.match.miou)
        for protocol, values in scores.items():
            yield f"segmentation/{protocol}", averages(values, self.settings)["score"]
