"""Attentive probe on stored tokens: one learned query pools the tokens of a frozen network for a linear classifier.

A small version of configs/attentive_probe.py (same pooling, no augmentation, tokens computed once), for tables that
compare many frozen encoders. After V-JEPA (Bardes et al. 2024). The SIGMA paper has no such probe: the settings are
this project's.

Letters: n clips, N tokens, D width, C classes, b clips per update.
"""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax

from sigma_jax.evals.features import check_finite, check_labels
from sigma_jax.evals.knn import accuracy
from sigma_jax.models.attentive import AttentivePool
from sigma_jax.runtime.errors import InvalidValue

PEAK_LR, WEIGHT_DECAY = 1e-3, 0.05  # of AdamW
WARMUP = 0.1  # share of the updates with linear warmup, before a cosine schedule


class AttentiveClassifier(nn.Module):
    """Attentive pooling, LayerNorm and a linear layer: tokens [b N D] -> class scores [b C]."""

    num_classes: int
    num_heads: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        pooled = AttentivePool(self.num_heads, nn.initializers.truncated_normal(0.02), name="pool")(tokens)
        head = nn.Dense(self.num_classes, precision=jax.lax.Precision.HIGHEST, name="head")
        return head(nn.LayerNorm(name="norm")(pooled))


def attentive_probe(
    train, test, *, num_classes: int, num_heads: int, epochs: int = 20, batch_size: int = 64, seed: int = 0
) -> dict[str, float]:
    """Trains the probe on the tokens `train` and measures it on `test`.

    Args:
      train: (tokens float [n N D], int labels [n] in [0, num_classes)).
      test: tokens and labels of other clips.
      num_classes: C.
      num_heads: of the attention; it must divide D.
      epochs: passes over `train`; the last, incomplete batch of a pass is left out.
      batch_size: b.
      seed: of the initial weights and the order of clips; equal inputs give equal results.

    Returns:
      `top1` and `train_top1` in per cent.

    Raises:
      ValueError: shapes that disagree, labels out of range, tokens that are not finite.
    """
    x, y = _checked("train", train, num_classes)
    test_x, test_y = _checked("test", test, num_classes)
    if x.shape[1:] != test_x.shape[1:]:
        raise InvalidValue(f"train tokens are {x.shape[1:]}, test tokens {test_x.shape[1:]}; expected the same network")
    if x.shape[2] % num_heads:
        raise InvalidValue(f"num_heads={num_heads} does not divide the width {x.shape[2]}")
    batch_size = min(batch_size, len(x))
    steps = epochs * (len(x) // batch_size)
    classifier = AttentiveClassifier(num_classes, num_heads)
    params = _fit(classifier, x, y, jax.random.key(seed), steps, batch_size)
    scores = jax.jit(lambda tokens: jax.lax.map(partial(classifier.apply, params), tokens, batch_size=batch_size))

    def top1(tokens, labels):
        return accuracy(scores(tokens[:, None])[:, 0], labels)

    return {"top1": top1(test_x, test_y), "train_top1": top1(x, y)}


def _checked(name: str, split, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    tokens, labels = np.asarray(split[0]), np.asarray(split[1])
    if tokens.ndim != 3:
        raise InvalidValue(f"{name} tokens have shape {tokens.shape}; expected [n N D]")
    check_labels(f"{name} labels", labels, len(tokens), num_classes)
    check_finite(f"{name} tokens", tokens)
    return tokens, labels


@partial(jax.jit, static_argnames=("classifier", "steps", "batch_size"))
def _fit(classifier, tokens, labels, key, steps, batch_size):
    init_key, order_key = jax.random.split(key)
    params = classifier.init(init_key, tokens[:1])
    schedule = optax.warmup_cosine_decay_schedule(0.0, PEAK_LR, max(1, round(WARMUP * steps)), steps)
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)
    per_epoch = len(tokens) // batch_size

    def loss(params, rows):
        scores = classifier.apply(params, tokens[rows])
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels[rows]).mean()

    def update(step, carry):
        params, state = carry
        order = jax.random.permutation(jax.random.fold_in(order_key, step // per_epoch), len(tokens))
        rows = jax.lax.dynamic_slice_in_dim(order, step % per_epoch * batch_size, batch_size)
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, update, (params, optimizer.init(params)))[0]
