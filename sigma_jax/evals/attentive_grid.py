"""A grid of attentive probes on frozen tokens, trained together, as in V-JEPA 2 (Assran et al. 2025).

The learning rate and weight decay of a probe change its result more than most methods differ, so there is one head for
every pair. All heads train on the same batches, which are read once; their parameters are stacked and updated by one
vmapped step. The head that is best on the validation clips is reported, together with the whole grid; only this head is
measured on the test clips. Learning rates, weight decays, schedule and heads are V-JEPA 2's; the SIGMA paper has no
such probe.

Letters: n clips, V views (crops), N tokens (of all temporal segments), D width, C classes, G heads, b clips per step.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sigma_jax.evals.knn import accuracy
from sigma_jax.evals.severe.multi_label_scores import mean_average_precision
from sigma_jax.models.attentive_classifier import AttentiveClassifier
from sigma_jax.runtime.errors import InvalidValue

DECAYED = ("kernel", "qkv", "query")  # parameters with weight decay; norms and biases have none


class TokenRows:
    """A selection of rows of tokens [n V N D] (which may be on disk); a row is read when it is indexed."""

    def __init__(self, stored: "np.ndarray | TokenRows", rows: np.ndarray):
        self.stored, self.rows = stored, rows

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.stored.shape[1:]

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *others = index if isinstance(index, tuple) else (index,)
        return self.stored[(self.rows[first], *others)]


class TokenSet(NamedTuple):
    """Tokens [n V N D] of any float type, and labels int [n] or, for several labels, 0/1 [n C]."""

    tokens: np.ndarray | TokenRows
    labels: np.ndarray

    def rows(self, index: np.ndarray) -> "TokenSet":
        """The clips `index`, whose tokens are not read yet."""
        return TokenSet(TokenRows(self.tokens, index), self.labels[index])


@dataclasses.dataclass(frozen=True)
class GridSettings:
    """The probes and their training.

    Attributes:
      learning_rates, weight_decays: of AdamW; every pair is a head. Rates are peaks of a cosine schedule to 0; weight
        decay applies to matrices only.
      epochs: passes over the training clips, each with one random view of a clip.
      warmup: share of the steps with linear warmup.
      batch_size: clips per step.
      depth, num_heads: of the classifier; num_heads must divide D.
      multi_label: binary cross-entropy and mAP instead of cross-entropy and top-1.
      seed: of the initial weights (equal for all heads), the order and the views.
      heads_at_once: heads that are computed in parallel; fewer need less memory. 0: all.
      dtype: of the computation.
    """

    learning_rates: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decays: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    epochs: int = 20
    warmup: float = 0.0
    batch_size: int = 64
    depth: int = 4
    num_heads: int = 16
    multi_label: bool = False
    seed: int = 0
    heads_at_once: int = 0
    dtype: Any = jnp.float32

    def __post_init__(self):
        for name in ("learning_rates", "weight_decays"):
            values = getattr(self, name)
            if not values or min(values) < 0 or len(set(values)) < len(values):
                raise InvalidValue(f"{name}={values}: expected one or more numbers, none below 0, each once")
        for name in ("epochs", "batch_size", "depth", "num_heads"):
            if getattr(self, name) < 1:
                raise InvalidValue(f"{name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.warmup < 1 or self.heads_at_once < 0:
            raise InvalidValue(f"warmup={self.warmup}, heads_at_once={self.heads_at_once}: expected 0..1 and 0 or more")

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of every head."""
        return [(rate, decay) for rate in self.learning_rates for decay in self.weight_decays]

    @property
    def metric(self) -> str:
        return "mAP" if self.multi_label else "top1"


def training_flops(settings: GridSettings, num_clips: int, token_shape: tuple[int, int]) -> tuple[float, float]:
    """Operations of the training: (of all heads, of their self-attention blocks alone); a forecast.

    A multiplication and an addition are two; the backward pass costs twice the forward one. Reading tokens is not
    counted.

    Args:
      token_shape: N, D.
    """
    num_tokens, width = token_shape
    blocks = (settings.depth - 1) * (24 * num_tokens * width**2 + 4 * num_tokens**2 * width)
    pooling = 4 * num_tokens * width * settings.num_heads + 20 * width**2
    times = 3.0 * num_clips * settings.epochs * len(settings.pairs)
    return times * (blocks + pooling), times * blocks


def step_ratio(settings: GridSettings, token_shape: tuple[int, int], encoder: float = 0.0) -> float:
    """Operations of a training step of all heads over those of a step of one head.

    Heads share nothing that depends on their parameters, which differ after the first step, so this is their number
    unless a step also computes its tokens, once for all heads.

    Args:
      token_shape: N, D.
      encoder: operations that compute the tokens of one clip in every step; 0: tokens are stored.
    """
    count = len(settings.pairs)
    one = training_flops(dataclasses.replace(settings, epochs=1), 1, token_shape)[0] / count
    return (encoder + count * one) / (encoder + one)


def attentive_grid(
    train: TokenSet, val: TokenSet, num_classes: int, settings: GridSettings, test: TokenSet | None = None
) -> dict[str, Any]:
    """Trains all heads, chooses the best one on `val`, and measures it on `test`.

    Returns:
      `metric`; `chosen`: learning_rate, weight_decay, `val` and, with a test set, `test` in per cent; `grid`: for every
      head learning_rate, weight_decay, `val`, last `loss`, and `diverged`, whether a number was not finite.

    Raises:
      InvalidValue: the sets do not fit together or the settings, or every head diverged.
    """
    for name, tokens in {"train": train, "val": val, "test": test}.items():
        if tokens is not None:
            _check(name, tokens, train, num_classes, settings)
    model = classifier(num_classes, settings)
    params, losses = fit_heads(model, train, settings)
    scores = [_score(probabilities, val.labels, settings) for probabilities in predict(model, params, val, settings)]
    grid = [
        {"learning_rate": rate, "weight_decay": decay, "val": score, "loss": float(loss), "diverged": score is None}
        for (rate, decay), score, loss in zip(settings.pairs, scores, losses, strict=True)
    ]
    finite = [i for i, score in enumerate(scores) if score is not None]
    if not finite:
        raise InvalidValue(f"every head diverged: choose smaller learning_rates than {settings.learning_rates}")
    best = max(finite, key=lambda i: scores[i])
    chosen = {name: grid[best][name] for name in ("learning_rate", "weight_decay", "val")}
    if test is not None:
        one = jax.jit(lambda heads: jax.tree.map(lambda leaf: leaf[best : best + 1], heads))(params)
        chosen["test"] = _score(next(iter(predict(model, one, test, settings))), test.labels, settings)
    return {"metric": settings.metric, "chosen": chosen, "grid": grid}


def _check(name: str, tokens: TokenSet, train: TokenSet, num_classes: int, settings: GridSettings) -> None:
    shape, labels = tokens.tokens.shape, tokens.labels
    if len(shape) != 4 or shape[2:] != train.tokens.shape[2:] or not len(labels):
        raise InvalidValue(
            f"{name} tokens are {shape}; expected [n V N D] with the N and D of train, {train.tokens.shape}"
        )
    if shape[3] % settings.num_heads:
        raise InvalidValue(f"num_heads={settings.num_heads} does not divide the tokens' width {shape[3]}")
    wanted = (shape[0], num_classes) if settings.multi_label else (shape[0],)
    if labels.shape != wanted:
        raise InvalidValue(f"{name} labels are {labels.shape}; expected {wanted}")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= (2 if settings.multi_label else num_classes):
        raise InvalidValue(
            f"{name} labels span {low}..{high}; expected 0..{1 if settings.multi_label else num_classes - 1}"
        )


def _score(probabilities: np.ndarray, labels: np.ndarray, settings: GridSettings) -> float | None:
    """The metric in per cent; None if a probability is not finite."""
    if not np.isfinite(probabilities).all():
        return None
    if settings.multi_label:
        return mean_average_precision(probabilities, labels)[0]
    return float(accuracy(probabilities, labels))


def batches(train: TokenSet, settings: GridSettings) -> Iterator[TokenSet]:
    """Training batches [b N D] of all epochs, with one random view of each clip, without incomplete batches."""
    size, (n, views) = min(settings.batch_size, len(train.labels)), train.tokens.shape[:2]
    for epoch in range(settings.epochs):
        rng = np.random.default_rng([settings.seed, epoch])
        order, view = rng.permutation(n), rng.integers(views, size=n)
        for low in range(0, n - size + 1, size):
            rows = np.sort(order[low : low + size])  # ascending, so that a file is read sequentially
            yield TokenSet(train.tokens[rows, view[rows]], train.labels[rows])


def step_of(
    token_shape: tuple[int, int], num_classes: int, settings: GridSettings
) -> tuple[Callable[..., tuple[Any, Any, jax.Array]], tuple[Any, Any]]:
    """One step of all heads, and where they start.

    Args:
      token_shape: N, D.

    Returns:
      (params, optimizer state, rates [G], decays [G], tokens [b N D], labels) -> (params, state, losses [G]), which
      takes over its first two arguments; and the first of these.
    """
    model = classifier(num_classes, settings)
    num_heads = len(settings.pairs)

    @jax.jit
    def start(key):
        one = model.init(key, jnp.zeros((1, *token_shape), jnp.float32))["params"]
        params = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], num_heads, axis=0), one)
        return params, jax.vmap(_adam().init)(params)

    update = _update(model, settings.multi_label, settings.heads_at_once or num_heads)
    return update, start(jax.random.key(settings.seed))


def classifier(num_classes: int, settings: GridSettings) -> AttentiveClassifier:
    """The network of every head."""
    return AttentiveClassifier(num_classes, settings.num_heads, settings.depth, settings.dtype)


def fit_heads(model: AttentiveClassifier, train: TokenSet, settings: GridSettings) -> tuple[Any, np.ndarray]:
    """Trains the heads; returns (parameters with a leading axis G, last loss of each head [G])."""
    rates, decays = np.array(settings.pairs, np.float32).T
    update, (params, state) = step_of(train.tokens.shape[2:], model.num_classes, settings)
    steps = settings.epochs * max(1, len(train.labels) // settings.batch_size)
    schedule = optax.cosine_decay_schedule(1.0, steps)
    if settings.warmup:
        schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, max(1, round(settings.warmup * steps)), steps)
    losses = np.zeros(len(rates))
    for share, batch in zip(np.asarray(schedule(np.arange(steps))), batches(train, settings), strict=True):
        params, state, losses = update(params, state, rates * share, decays, batch.tokens, batch.labels)
    return params, np.asarray(losses)


def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam()


@functools.lru_cache(maxsize=8)
def _update(model: AttentiveClassifier, multi_label: bool, heads_at_once: int) -> Callable:
    """One AdamW step of all heads on one batch."""

    def loss(params, tokens, labels):
        logits = model.apply({"params": params}, tokens)
        if multi_label:
            return optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)).mean()
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def one_head(tokens, labels, head):
        params, state, rate, decay = head
        value, grads = jax.value_and_grad(loss)(params, tokens, labels)
        direction, state = _adam().update(grads, state)

        def moved(path, leaf, towards):
            return leaf - rate * (towards + decay * leaf if path[-1].key in DECAYED else towards)

        return jax.tree_util.tree_map_with_path(moved, params, direction), state, value

    def update(params, state, rates, decays, tokens, labels):
        head = functools.partial(one_head, tokens, labels)
        return jax.lax.map(head, (params, state, rates, decays), batch_size=heads_at_once)

    return jax.jit(update, donate_argnums=(0, 1))


def predict(model: AttentiveClassifier, params: Any, tokens: TokenSet, settings: GridSettings) -> np.ndarray:
    """Probabilities float64 [G n C]: the mean over views of the softmax (multi-label: sigmoid) of each view."""
    logits_of = _predictor(model, settings.heads_at_once or len(settings.pairs))
    found = []
    for low in range(0, len(tokens.labels), settings.batch_size):
        part = np.asarray(tokens.tokens[low : low + settings.batch_size])
        views = part.shape[1]
        logits = logits_of(params, part.reshape(-1, *part.shape[2:]))
        values = jax.nn.sigmoid(logits) if settings.multi_label else jax.nn.softmax(logits)
        found.append(np.asarray(values, np.float64).reshape(len(values), len(part), views, -1).mean(axis=2))
    return np.concatenate(found, axis=1)


@functools.lru_cache(maxsize=8)
def _predictor(model: AttentiveClassifier, heads_at_once: int) -> Callable:
    def logits(params, tokens):
        return jax.lax.map(lambda head: model.apply({"params": head}, tokens), params, batch_size=heads_at_once)

    return jax.jit(logits)


def few_shot_rows(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Ascending numbers of `shots` random clips of every class.

    Args:
      labels: int [n], or 0/1 [n C].
      shots: clips per class.
      seed: of the choice.

    Raises:
      InvalidValue: a class has fewer clips.
    """
    rng = np.random.default_rng(seed)
    is_member = labels.astype(bool).T if labels.ndim == 2 else labels == np.unique(labels)[:, None]
    counts = is_member.sum(axis=1)
    if (counts < shots).any():
        scarce = int(np.argmin(counts))
        name = scarce if labels.ndim == 2 else np.unique(labels)[scarce]
        raise InvalidValue(f"few_shot={shots}: class {name} has {counts[scarce]} training clips")
    chosen = [rng.choice(np.flatnonzero(members), shots, replace=False) for members in is_member]
    return np.unique(np.concatenate(chosen))


def few_shot(
    sets: tuple[TokenSet, TokenSet, TokenSet | None],
    num_classes: int,
    settings: GridSettings,
    shots: int,
    seeds: tuple[int, ...],
) -> dict[str, Any]:
    """`attentive_grid` on `shots` training clips per class, once for every seed of their choice.

    Args:
      sets: train, val and test (or None).

    Returns:
      `shots`, `seeds`, `mean` and `spread` (standard deviation) of the chosen head on `measured_on` (test, or val
      without a test set), and `runs`, the result of each seed.
    """
    train, val, test = sets
    runs = [
        attentive_grid(train.rows(few_shot_rows(train.labels, shots, seed)), val, num_classes, settings, test)
        for seed in seeds
    ]
    measured = [run["chosen"]["val" if test is None else "test"] for run in runs]
    numbers = {"mean": float(np.mean(measured)), "spread": float(np.std(measured))}
    return (
        {"shots": shots, "seeds": list(seeds), "measured_on": "val" if test is None else "test"}
        | numbers
        | {"runs": runs}
    )
