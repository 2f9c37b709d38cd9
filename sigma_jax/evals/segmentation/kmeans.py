"""k-means with the random choices of the faiss library, so that published protocols that use it can be repeated.

32-bit Mersenne twisters with fixed seeds determine the training points, the initial centroids of each restart, and how
an empty cluster is refilled. The labels are those of faiss's `Kmeans` (Johnson et al. 2017).

Letters: n points, d dimensions, K clusters.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from sigma_jax.runtime.errors import InvalidValue

_RESTART_STRIDE = 15486557  # difference of the seeds of successive restarts
_SPLIT_SEED = 1234
_SPLIT_SHIFT = np.float32(1 / 1024)  # relative shift of the two centroids when a cluster is split
_BLOCK = 65536  # points compared with the centroids at once


@dataclasses.dataclass(frozen=True)
class KmeansSettings:
    """Numbers of one k-means run; the defaults are those of TimeT.

    Attributes:
      iterations: limit per restart.
      restarts: number of initialisations, of which the one with the smallest objective is kept.
      seed: of the subsample and of the restarts.
      points_per_cluster: limit of training points per cluster; all points are assigned.
    """

    iterations: int = 50
    restarts: int = 5
    seed: int = 1
    points_per_cluster: int = 256

    def __post_init__(self):
        for name in ("iterations", "restarts", "points_per_cluster"):
            if getattr(self, name) < 1:
                raise InvalidValue(f"k-means {name}={getattr(self, name)}: expected at least 1")


def permutation_prefix(n: int, seed: int, count: int) -> np.ndarray:
    """The first `count` entries of faiss's random permutation of 0..n-1, int64 [count].

    It is a Fisher-Yates shuffle from the front, so that later entries need not be computed.
    """
    count = min(count, n)
    draws = _draws(_twister(seed), max(count, 1))
    moved: dict[int, int] = {}  # entries that are no longer their own index
    prefix = np.empty(count, np.int64)
    for i in range(count):
        j = i + int(draws[i]) % (n - i) if i < n - 1 else i
        here = moved.get(i, i)
        prefix[i] = moved.get(j, j)
        moved[j] = here
    return prefix


def fit(
    points_at: Callable[[np.ndarray], np.ndarray], n: int, num_clusters: int, settings: KmeansSettings
) -> np.ndarray:
    """Centroids of `n` points, of which only a sample is computed.

    Args:
      points_at: returns the points float32 [m d] of rows int64 [m], each in 0..n-1.
      n: number of points.
      num_clusters: K.
      settings: of k-means.

    Returns:
      float32 [K d].

    Raises:
      ValueError: fewer points than clusters.
    """
    if not 1 <= num_clusters <= n:
        raise InvalidValue(f"{num_clusters} clusters of {n} points: expected 1 to {n}")
    most = settings.points_per_cluster * num_clusters
    rows = permutation_prefix(n, settings.seed, most) if n > most else np.arange(n)
    points = np.ascontiguousarray(points_at(rows), np.float32)
    best, smallest = None, np.inf
    for restart in range(settings.restarts):
        start = permutation_prefix(len(points), settings.seed + 1 + restart * _RESTART_STRIDE, num_clusters)
        centroids, objectives = lloyd(points, points[start], settings.iterations)
        if best is None or objectives[-1] < smallest:
            best, smallest = centroids, objectives[-1]
    return best


def lloyd(points: np.ndarray, centroids: np.ndarray, iterations: int) -> tuple[np.ndarray, list[float]]:
    """Lloyd's algorithm from initial `centroids` [K d]: alternates assignment and averaging.

    It stops early when an assignment repeats, since then nothing changes any more. Numbers are rounded in the order of
    faiss's own code: one point that goes to another cluster can lead a whole restart elsewhere.

    Returns:
      centroids float32 [K d], and the sum of squared distances of each assignment (before its averaging).
    """
    centroids = np.array(centroids, np.float32)
    if len(points) == len(centroids):  # every point is a cluster
        return np.array(points, np.float32), [0.0]
    squares = np.einsum("nd,nd->n", points, points)
    objectives, previous = [], None
    for _ in range(iterations):
        labels, distances = _nearest(points, squares, centroids)
        objectives.append(float(distances.sum(dtype=np.float64)))
        if previous is not None and np.array_equal(labels, previous):
            break
        centroids = _averages(points, labels, centroids)
        previous = labels
    return centroids, objectives


def assign(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The nearest centroid of each point [n d], int32 [n]; of equally near ones that with the lower number."""
    return _nearest(points, np.einsum("nd,nd->n", points, points), centroids)[0]


def _nearest(points: np.ndarray, squares: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels int32 [n], squared distances [n]) of points [n d] with the squared lengths `squares` [n]."""
    labels, distances = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    lengths = np.einsum("kd,kd->k", centroids, centroids)
    for low in range(0, len(points), _BLOCK):
        rows = slice(low, low + _BLOCK)
        found = np.maximum(squares[rows, None] + lengths - 2 * (points[rows] @ centroids.T), 0)
        labels[rows] = found.argmin(axis=1)
        distances[rows] = np.take_along_axis(found, labels[rows, None], axis=1)[:, 0]
    return labels, distances


def _averages(points: np.ndarray, labels: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Means of the clusters [K d]; an empty cluster is refilled by splitting a large one."""
    num_clusters = len(old)
    sizes = np.bincount(labels, minlength=num_clusters).astype(np.float32)
    present = np.flatnonzero(sizes)
    starts = np.concatenate([[0], np.cumsum(sizes[present])[:-1]]).astype(np.int64)
    centroids = np.zeros_like(old)
    sums = np.add.reduceat(
        points[np.argsort(labels.astype(np.min_scalar_type(num_clusters)), kind="stable")], starts, axis=0
    )
    centroids[present] = sums * (1 / sizes[present, None])
    if (sizes == 0).any():
        _refill(centroids, sizes, len(points))
    return centroids


def _refill(centroids: np.ndarray, sizes: np.ndarray, n: int) -> None:
    """Gives each empty cluster the centroid of a cluster drawn by size, and shifts the two apart, in place."""
    twister = _twister(_SPLIT_SEED)
    sign = np.where(np.arange(centroids.shape[1]) % 2 == 0, _SPLIT_SHIFT, -_SPLIT_SHIFT).astype(np.float32)
    for empty in np.flatnonzero(sizes == 0):
        donor = 0
        while _draws(twister, 1)[0] / 4294967295 >= (sizes[donor] - 1) / (n - len(sizes)):
            donor = (donor + 1) % len(sizes)
        centroids[empty] = centroids[donor] * (1 + sign)
        centroids[donor] *= 1 - sign
        sizes[empty] = sizes[donor] / 2
        sizes[donor] -= sizes[empty]


def _twister(seed: int) -> np.random.RandomState:
    """The 32-bit Mersenne twister of an integer seed, as in C++ and faiss."""
    return np.random.RandomState(seed)


def _draws(twister: np.random.RandomState, count: int) -> np.ndarray:
    """The next raw numbers of a twister, uint32 [count]."""
    return twister.randint(2**32, size=count, dtype=np.uint32)
