"""Features of a data set by a frozen network, and the features of raw pixels to which they are compared.

Letters: B clips, F frames, y x pixels, n clips of a whole data set, D feature width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.runtime.errors import InvalidValue

Batch = Mapping[str, np.ndarray]
FeatureFn = Callable[[np.ndarray], jax.Array]

RAW_PIXELS = "raw 8x8x8 pixels"  # title of `raw_pixel_features` in tables
PIXEL_BINS = 8  # features of raw pixels are averages over 8 x 8 x 8 cells of a clip


def computed(function: FeatureFn, batches: Iterable[Batch]) -> Iterator[tuple[Batch, jax.Array]]:
    """(batch, function of its `video`), one batch late: the host prepares the next one while the device computes."""
    running = None
    for batch in batches:
        result = function(batch["video"])
        if running is not None:
            yield running
        running = batch, result
    if running is not None:
        yield running


def extract(feature_fn: FeatureFn, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Runs a frozen network over a data set, in order.

    Args:
        feature_fn: jitted, video uint8 [B F y x 3] -> features [B D], or tokens [B N D].
        batches: dicts with `video`, `label` [B ...] and optionally `weight` [B]; rows of weight 0 are padding and are
            dropped, so the result does not depend on the batch size. Each process passes its own clips.

    Returns:
        features float32 [n D] (or [n N D]) and labels [n ...].

    Raises:
        ValueError: no clips, features of another shape, or features that are not finite.
    """
    features, labels = [], []
    for batch, result in computed(feature_fn, batches):
        is_real = np.asarray(batch.get("weight", np.ones(len(batch["label"])))) > 0
        if result.ndim < 2 or len(result) != len(is_real):
            raise ValueError(
                f"feature_fn returned {result.shape} for {len(is_real)} clips; expected [clips, width] or "
                "[clips, tokens, width]"
            )
        features.append(np.asarray(result, np.float32)[is_real])
        labels.append(np.asarray(batch["label"])[is_real])
    if not sum(map(len, labels)):
        raise InvalidValue("no clips to extract features from: the batches were empty or all padding")
    features = np.concatenate(features)
    check_finite("features", features)
    return features, np.concatenate(labels)


def extract_all(
    networks: Mapping[str, FeatureFn], batches: Iterable[Batch]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`extract` for several networks in one pass: clips are read once. Features [B D] only."""
    widths: list[int] = []

    def together(video: np.ndarray) -> jax.Array:
        found = [network(video) for network in networks.values()]
        widths[:] = [features.shape[-1] for features in found]
        return jnp.concatenate(found, axis=-1)

    features, labels = extract(together, batches)
    parts = np.split(features, np.cumsum(widths)[:-1], axis=-1)
    return {name: (part, labels) for name, part in zip(networks, parts, strict=True)}


def check_finite(name: str, features: np.ndarray) -> None:
    """Raises ValueError naming how many rows of `features` [n ...] hold a NaN or infinity."""
    broken = ~np.isfinite(features).reshape(len(features), -1).all(axis=1)
    if broken.any():
        raise InvalidValue(
            f"{broken.sum()} of {len(features)} rows of {name} are not finite (first: row "
            f"{broken.argmax()}); check the checkpoint and the input video"
        )


def check_labels(name: str, labels: np.ndarray, num_rows: int, num_classes: int) -> None:
    """Raises ValueError unless `labels` are `num_rows` integers in [0, num_classes)."""
    if labels.shape != (num_rows,):
        raise ValueError(f"{name} has shape {labels.shape}; expected ({num_rows},), one label per feature row")
    if num_rows == 0:
        raise InvalidValue(f"{name} is empty; check that the split has labelled clips")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} has type {labels.dtype}; expected integers")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{name} spans {labels.min()}..{labels.max()}; expected 0..{num_classes - 1}: "
            "check num_classes and the label map"
        )


def _mean_matrix(size: int) -> np.ndarray:
    """Averaging matrix [PIXEL_BINS size]; neighbouring bins overlap by one position if 8 does not divide size."""
    matrix = np.zeros((PIXEL_BINS, size), np.float32)
    for i in range(PIXEL_BINS):
        first, last = i * size // PIXEL_BINS, -(-(i + 1) * size // PIXEL_BINS)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


@jax.jit
def raw_pixel_features(video: jax.Array) -> jax.Array:
    """Features without a network: a clip averaged to 8 x 8 x 8 cells of RGB in [0, 1].

    Args:
        video: uint8 [B F y x 3], any F, y, x.

    Returns:
        float32 [B 1536], ordered time, row, column, colour.
    """
    frames, rows, columns = (_mean_matrix(size) for size in video.shape[1:4])
    cells = jnp.einsum(
        "tF,hy,wx,BFyxc->Bthwc",
        frames,
        rows,
        columns,
        video.astype(jnp.float32) / 255,
        precision=jax.lax.Precision.HIGHEST,
    )
    return cells.reshape(len(video), -1)
