"""Matches clusters to objects and measures their overlap (matching and mIoU of TimeT; Salehi et al. 2023).

The pixels of all frames of a clip are pooled, so that a cluster must follow its object through time.

Letters: F frames, y x pixels, G objects of the clip (background included), P clusters that occur.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from sigma_jax.runtime.errors import InvalidValue

MATCHES = ("hungarian", "precision", "iou")
AVERAGES = ("plain", "timet")
_LARGEST_TABLE = 2**16  # labels are counted in a table of this size; others are sorted


@dataclasses.dataclass(frozen=True, eq=False)
class MatchedClip:
    """A clip's clusters after matching.

    Attributes:
      objects: int [G], labels of the annotation, ascending.
      clusters: int [P], labels of the cluster map, ascending.
      cluster_object: int [P], the object that is matched to each cluster; 0 for clusters without a match.
      tp, fp, fn: int [G], pixels.
      iou: float [G], intersection over union of each object.
    """

    objects: np.ndarray
    clusters: np.ndarray
    cluster_object: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    iou: np.ndarray

    @property
    def miou(self) -> float:
        """Mean over all objects, background included; in [0, 1]."""
        return float(self.iou.mean())

    @property
    def miou_without_background(self) -> float:
        """Mean over the objects other than 0; 0 for a clip that has none."""
        foreground = self.iou[self.objects != 0]
        return float(foreground.mean()) if foreground.size else 0.0

    def relabel(self, cluster_map: np.ndarray) -> np.ndarray:
        """Replaces the clusters of a map [...] by their objects.

        Raises:
          ValueError: a cluster that was not matched here.
        """
        if not np.isin(cluster_map, self.clusters).all():
            raise InvalidValue(f"the map has other clusters than {self.clusters.tolist()}, which were matched")
        return self.cluster_object[np.searchsorted(self.clusters, cluster_map)].astype(cluster_map.dtype)


def overlap(labels: np.ndarray, cluster_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(objects [G], clusters [P], pixels int64 [G P] that have both) of two integer maps of one shape.

    Raises:
      ValueError: maps of different shapes, or without a pixel.
    """
    if labels.shape != cluster_map.shape or not labels.size:
        raise InvalidValue(f"labels {labels.shape} and cluster map {cluster_map.shape}: expected one shape, not empty")
    objects, rows = _numbered(labels)
    clusters, columns = _numbered(cluster_map)
    counts = np.bincount(rows * len(clusters) + columns, minlength=len(objects) * len(clusters))
    return objects, clusters, counts.reshape(len(objects), len(clusters))


def _numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct values int64, ascending; the position of each value among them, flat)."""
    low, high = int(values.min()), int(values.max())
    if high - low > _LARGEST_TABLE:
        distinct, positions = np.unique(values, return_inverse=True)
        return distinct.astype(np.int64), positions.ravel()
    offsets = values.ravel().astype(np.int64) - low
    present = np.bincount(offsets) > 0
    return np.flatnonzero(present) + low, (np.cumsum(present, dtype=np.int32) - 1)[offsets]


def iou_matrix(pixels: np.ndarray) -> np.ndarray:
    """Intersection over union [G P] of a table of common pixels [G P]."""
    union = pixels.sum(axis=1, keepdims=True) + pixels.sum(axis=0, keepdims=True) - pixels
    return pixels / np.maximum(union, 1)


def precision_matrix(pixels: np.ndarray) -> np.ndarray:
    """Share of each cluster's pixels on each object [G P], from a table of common pixels [G P]."""
    return pixels / np.maximum(pixels.sum(axis=0, keepdims=True), 1)


def one_to_one(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The one-to-one matching with the largest total IoU, (rows, columns) of a table of common pixels [G P]."""
    return linear_sum_assignment(iou_matrix(pixels), maximize=True)


def match_clip(labels: np.ndarray, cluster_map: np.ndarray, match: str = "hungarian") -> MatchedClip:
    """Matches each cluster to an object and measures the overlap.

    Args:
      labels: int [F y x], the annotation.
      cluster_map: int [F y x].
      match: 'hungarian' (one to one, largest total IoU; other clusters become background, 0, whether or not the clip
        has background), or greedy many to one, by 'precision' (each cluster is matched to the object with most of its
        pixels, as in published overclustering) or by 'iou'; of equal objects the smaller label is taken.

    Raises:
      ValueError: an unknown match, or maps that do not fit together.
    """
    if match not in MATCHES:
        raise InvalidValue(f"match={match!r}: expected one of {', '.join(MATCHES)}")
    objects, clusters, pixels = overlap(labels, cluster_map)
    cluster_object = np.zeros(len(clusters), np.int64)
    if match == "hungarian":
        rows, columns = one_to_one(pixels)
        cluster_object[columns] = objects[rows]
    else:
        scores = precision_matrix(pixels) if match == "precision" else iou_matrix(pixels)
        cluster_object = objects[scores.argmax(axis=0)]
    is_partner = cluster_object[None, :] == objects[:, None]
    tp = (pixels * is_partner).sum(axis=1)
    fp = (pixels.sum(axis=0) * is_partner).sum(axis=1) - tp
    fn = pixels.sum(axis=1) - tp
    iou = tp / np.maximum(tp + fp + fn, 1e-8)
    return MatchedClip(objects, clusters, cluster_object, tp, fp, fn, iou)


def average(scores: Sequence[float], how: str = "plain", batch_size: int = 16) -> float:
    """Mean over clips.

    Args:
      scores: of the clips.
      how: 'plain', or 'timet', the mean of the means of batches as in the released code, in which a smaller last batch
        has the weight of a full one.
      batch_size: of 'timet'.

    Raises:
      ValueError: no scores, or an unknown average.
    """
    if how not in AVERAGES:
        raise InvalidValue(f"average={how!r}: expected one of {', '.join(AVERAGES)}")
    if not len(scores):
        raise InvalidValue("no clip has a score: nothing to average")
    if how == "plain":
        return float(np.mean(scores))
    return float(np.mean([np.mean(scores[low : low + batch_size]) for low in range(0, len(scores), batch_size)]))
