"""From a clip's features to a map of clusters: standardise, PCA, upsample, k-means (TimeT; Salehi et al. 2023).

Features, not labels, are enlarged to the frames' size before they are clustered, so 16 frames of 224 x 224 are 802,816
points of 50 numbers. They are never all made: k-means trains on a sample, whose points are interpolated alone.
Assigning needs |c|^2 - 2 x.c for every point x and centroid c, and since enlarging is linear, x.c is computed on the
grid of tokens and enlarged: K numbers a pixel instead of 50.

Letters: n tokens, D width, d reduced width, F frames, h w token grid, y x pixels, K clusters.
"""

from functools import lru_cache

import numpy as np

from sigma_jax.evals.segmentation import kmeans
from sigma_jax.runtime.errors import InvalidValue

_ROWS = 4096  # tokens in double precision at once


def standardize(tokens: np.ndarray) -> np.ndarray:
    """[n D] -> [n D] with mean 0 and population variance 1 in every channel, float32; constant channels become 0."""
    tokens = np.asarray(tokens, np.float32)
    total, squares = np.zeros(tokens.shape[1]), np.zeros(tokens.shape[1])
    for low in range(0, len(tokens), _ROWS):
        total += tokens[low : low + _ROWS].sum(axis=0, dtype=np.float64)
    mean = total / len(tokens)
    for low in range(0, len(tokens), _ROWS):
        squares += np.square(tokens[low : low + _ROWS] - mean).sum(axis=0)
    variance = squares / len(tokens)
    # A channel that is constant but for rounding must not become noise: its deviation is divided by 1, as published.
    is_constant = variance <= 10 * np.finfo(np.float64).eps * np.square(mean) + np.finfo(np.float32).tiny
    std = np.sqrt(np.where(is_constant, 1.0, variance))
    return ((tokens - mean.astype(np.float32)) / std.astype(np.float32)).astype(np.float32)


def principal_components(tokens: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PCA without whitening.

    Returns:
      mean [D], components [d D] of length 1 by falling variance (the sign of each is free), and their sums of squares
      [d] (not divided by n); d is the smallest of `dims`, n and D.
    """
    n, width = tokens.shape
    dims = min(dims, n, width)
    mean = tokens.mean(axis=0, dtype=np.float64).astype(np.float32)
    scatter = np.zeros((width, width))
    for low in range(0, n, _ROWS):
        centred = tokens[low : low + _ROWS].astype(np.float64) - mean
        scatter += centred.T @ centred
    values, vectors = np.linalg.eigh(scatter)
    return mean, vectors[:, ::-1][:, :dims].T.astype(np.float32), values[::-1][:dims]


def reduce_tokens(tokens: np.ndarray, dims: int = 50) -> np.ndarray:
    """Standardised and projected onto the first `dims` principal components of these tokens: [n D] -> float32 [n d].

    Raises:
      ValueError: tokens that are no matrix or not finite.
    """
    if tokens.ndim != 2 or not tokens.size:
        raise InvalidValue(f"tokens have shape {tokens.shape}; expected [n D]")
    if not np.isfinite(tokens).all():
        broken = int((~np.isfinite(tokens)).any(axis=1).sum())
        raise InvalidValue(f"{broken} of {len(tokens)} tokens are not finite: check the weights and the frames")
    standardized = standardize(tokens)
    mean, components, _ = principal_components(standardized, dims)
    return (standardized - mean) @ components.T


@lru_cache(maxsize=32)
def upsampling_matrix(old: int, new: int) -> np.ndarray:
    """[new old] weights of linear interpolation with half-pixel centres and repeated borders, float32."""
    weights = np.zeros((new, old), np.float32)
    low, high, share = _taps(np.arange(new), old, new)
    np.add.at(weights, (np.arange(new), low), 1 - share)
    np.add.at(weights, (np.arange(new), high), share)
    weights.setflags(write=False)
    return weights


def _taps(positions: np.ndarray, old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lower neighbour, upper neighbour, share of the upper one) of `positions` of `new` among `old`."""
    centres = np.maximum((positions + 0.5) * (old / new) - 0.5, 0)
    low = np.minimum(centres.astype(np.int64), old - 1)
    return low, np.minimum(low + 1, old - 1), (centres - low).astype(np.float32)


def upsample(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, half-pixel centres: [... h w d] -> float32 [... y x d]."""
    rows, columns = (upsampling_matrix(old, new) for old, new in zip(maps.shape[-3:-1], size, strict=True))
    return np.einsum("yh,...hwd,xw->...yxd", rows, maps.astype(np.float32), columns, optimize=True)


def cluster_clip(
    features: np.ndarray,
    num_clusters: int,
    size: tuple[int, int],
    settings: kmeans.KmeansSettings | None = None,
    *,
    upsampled: str = "features",
) -> np.ndarray:
    """Clusters all pixels of a clip at once.

    Args:
      features: float [F h w d], standardised and reduced.
      num_clusters: K >= 1.
      size: (y, x) of the map.
      upsampled: 'features' (published: boundaries are smooth) or 'labels' (clusters of tokens, nearest token).

    Returns:
      cluster_map, int16 [F y x] in 0..K-1.

    Raises:
      ValueError: features of another rank, fewer points than clusters, or an unknown way of upsampling.
    """
    if features.ndim != 4:
        raise InvalidValue(f"features have shape {features.shape}; expected [F h w d]")
    if upsampled not in ("features", "labels"):
        raise InvalidValue(f"upsampled={upsampled!r}: expected 'features' or 'labels'")
    settings = settings or kmeans.KmeansSettings()
    features = np.ascontiguousarray(features, np.float32)
    num_frames, h, w, width = features.shape
    if upsampled == "labels":
        points = features.reshape(-1, width)
        centroids = kmeans.fit(points.__getitem__, len(points), num_clusters, settings)
        labels = kmeans.assign(points, centroids).reshape(num_frames, h, w)
        rows, columns = (_nearest(old, new) for old, new in zip((h, w), size, strict=True))
        return labels[:, rows[:, None], columns].astype(np.int16)
    centroids = kmeans.fit(
        lambda index: _points(features, index, size), num_frames * size[0] * size[1], num_clusters, settings
    )
    return np.stack([_assign_frame(frame, centroids, size) for frame in features])


def _points(features: np.ndarray, index: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rows `index` of the enlarged features, flattened as frame, row, column: [m d]."""
    frames, y, x = np.unravel_index(index, (len(features), *size))
    top, bottom, down = _taps(y, features.shape[1], size[0])
    left, right, across = _taps(x, features.shape[2], size[1])
    down, across = down[:, None], across[:, None]
    upper = features[frames, top, left] * (1 - across) + features[frames, top, right] * across
    lower = features[frames, bottom, left] * (1 - across) + features[frames, bottom, right] * across
    return upper * (1 - down) + lower * down


def _assign_frame(frame: np.ndarray, centroids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest centroid of every pixel of one frame [h w d], int16 [y x]."""
    rows, columns = (upsampling_matrix(old, new) for old, new in zip(frame.shape[:2], size, strict=True))
    products = np.moveaxis(frame @ centroids.T, -1, 0)  # [K h w]
    squares = np.einsum("kd,kd->k", centroids, centroids)
    labels, smallest = np.zeros(size, np.int16), None
    for cluster, product in enumerate(products):
        distance = squares[cluster] - 2 * (rows @ product @ columns.T)
        if smallest is None:
            smallest = distance
            continue
        is_nearer = distance < smallest
        labels[is_nearer] = cluster
        np.minimum(smallest, distance, out=smallest)
    return labels


def _nearest(old: int, new: int) -> np.ndarray:
    """For each of `new` positions the nearest of `old`."""
    return ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
