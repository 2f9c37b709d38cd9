"""Cluster maps of a clip from its features: standardise, PCA, upsample, k-means (TimeT; Salehi et al. 2023).

Features, not labels, are upsampled to the frames' size before they are clustered, so 16 frames of 224 x 224 are 802,816
points of 50 numbers. They are never all in memory: k-means trains on a sample, and only its points are interpolated.
Assignment needs |c|^2 - 2 x.c for every point x and centroid c. Since upsampling is linear, x.c is computed on the grid
of tokens and then upsampled: K numbers a pixel instead of 50.

Letters: n tokens, D width, d reduced width, F frames, h w token grid, y x pixels, K clusters.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from threadpoolctl import threadpool_limits

from sigma_jax.evals.segmentation import kmeans
from sigma_jax.runtime.errors import InvalidValue

_ROWS = 1024  # tokens that are converted to double precision at a time
# These are a thousand small products and one eigendecomposition: with several threads, waiting takes longer than work.
one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


def standardize(tokens: np.ndarray) -> np.ndarray:
    """Tokens [n D] with mean 0 and population variance 1 in every channel, float32; constant channels become 0."""
    mean, std = _moments([tokens])
    return (np.asarray(tokens, np.float32) - mean) / std


def principal_components(tokens: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PCA without whitening.

    Returns:
      mean [D]; components [d D] of length 1 in order of descending variance (their signs are arbitrary); their sums of
      squares [d] (not divided by n); d is the smallest of `dims`, n and D.
    """
    return _components(lambda: _blocks([tokens]), min(dims, *tokens.shape))


def reduce_tokens(tokens: np.ndarray, dims: int = 50) -> np.ndarray:
    """Standardises tokens [n D] and projects them onto their first `dims` principal components: float32 [n d].

    Raises:
      ValueError: tokens that are no matrix or not finite.
    """
    return reduce_clips([tokens], dims)[0]


@one_thread
def reduce_clips(clips: Sequence[np.ndarray], dims: int = 50) -> list[np.ndarray]:
    """`reduce_tokens` of several clips [n D] together, each [n d]; nothing of the size of their tokens is made."""
    shapes = sorted({tokens.shape[1:] for tokens in clips})
    if len(shapes) != 1 or len(shapes[0]) != 1 or not any(tokens.size for tokens in clips):
        raise InvalidValue(f"tokens have shape {', '.join(map(str, shapes))}; expected [n D] of one D")
    count = sum(map(len, clips))
    broken = sum(int((~np.isfinite(block)).any(axis=1).sum()) for block in _blocks(clips))
    if broken:
        raise InvalidValue(f"{broken} of {count} tokens are not finite: check the weights and the frames")
    mean, std = _moments(clips)

    def standardized(parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        return ((block - mean) / std for block in _blocks(parts))

    centre, components, _ = _components(lambda: standardized(clips), min(dims, count, *shapes[0]))
    return [np.concatenate([(block - centre) @ components.T for block in standardized([clip])]) for clip in clips]


def _blocks(parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """All rows of several matrices, some at a time, float32 [rows D]."""
    for part in parts:
        for low in range(0, max(len(part), 1), _ROWS):
            yield np.asarray(part[low : low + _ROWS], np.float32)


def _moments(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(mean, what the deviation is divided by) of every channel, float32 [D]."""
    count = sum(map(len, parts))
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in _blocks(parts)) / count
    variance = sum(np.square(block - mean).sum(axis=0) for block in _blocks(parts)) / count
    # A channel that is constant but for rounding must not become noise: its deviation is divided by 1, as published.
    is_constant = variance <= 10 * np.finfo(np.float64).eps * np.square(mean) + np.finfo(np.float32).tiny
    return mean.astype(np.float32), np.sqrt(np.where(is_constant, 1.0, variance)).astype(np.float32)


def _components(blocks: Callable[[], Iterator[np.ndarray]], dims: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `principal_components`, of rows that come in blocks [rows D]."""
    count, total = 0, 0.0
    for block in blocks():
        count, total = count + len(block), total + block.sum(axis=0, dtype=np.float64)
    mean = (total / count).astype(np.float32)
    scatter = 0.0
    for block in blocks():
        centred = block.astype(np.float64) - mean
        scatter = scatter + centred.T @ centred
    values, vectors = np.linalg.eigh(scatter)
    return mean, vectors[:, ::-1][:, :dims].T.astype(np.float32), values[::-1][:dims]


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
    """(lower neighbour, upper neighbour, weight of the upper one) among `old` positions, for `positions` of `new`."""
    centres = np.maximum((positions + 0.5) * (old / new) - 0.5, 0)
    low = np.minimum(centres.astype(np.int64), old - 1)
    return low, np.minimum(low + 1, old - 1), (centres - low).astype(np.float32)


def upsample(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear upsampling with half-pixel centres: [... h w d] -> float32 [... y x d]."""
    rows, columns = (upsampling_matrix(old, new) for old, new in zip(maps.shape[-3:-1], size, strict=True))
    return np.einsum("yh,...hwd,xw->...yxd", rows, maps.astype(np.float32), columns, optimize=True)


@one_thread
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
      settings: of k-means; None: the defaults.
      upsampled: 'features' (published; boundaries are smooth) or 'labels' (tokens are clustered, and a pixel has the
        cluster of the nearest token).

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
    if upsampled == "labels":
        return _cluster_tokens(features, num_clusters, size, settings)
    num_points = len(features) * size[0] * size[1]
    centroids = kmeans.fit(lambda index: _points(features, index, size), num_points, num_clusters, settings)
    maps = []
    for i, frame in enumerate(features):  # frames of one token step are equal
        is_repeated = i > 0 and np.array_equal(frame, features[i - 1])
        maps.append(maps[-1] if is_repeated else _assign_frame(frame, centroids, size))
    return np.stack(maps)


def _cluster_tokens(
    features: np.ndarray, num_clusters: int, size: tuple[int, int], settings: kmeans.KmeansSettings
) -> np.ndarray:
    """Clusters of tokens [F h w d]; a pixel has that of the nearest token, int16 [F y x]."""
    points = features.reshape(-1, features.shape[-1])
    centroids = kmeans.fit(points.__getitem__, len(points), num_clusters, settings)
    labels = kmeans.assign(points, centroids).reshape(features.shape[:3])
    rows, columns = (_nearest(old, new) for old, new in zip(features.shape[1:3], size, strict=True))
    return labels[:, rows[:, None], columns].astype(np.int16)


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
