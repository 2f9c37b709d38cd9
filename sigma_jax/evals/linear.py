"""Linear probe on stored features: multinomial logistic regression by full-batch L-BFGS.

A fast, deterministic measure for monitoring and small data sets. The paper's linear probe is another one: it trains a
LayerNorm and a linear layer with AdamW under the full finetuning augmentation (configs/linear_probe.py). Do not compare
the two numbers.

Letters: n clips, D feature width, C classes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sigma_jax.evals.features import check_finite, check_labels
from sigma_jax.evals.knn import accuracy

FP32 = jax.lax.Precision.HIGHEST  # of the products that feed the loss, on every platform


def linear_probe(
    train, test, *, num_classes: int, l2: float = 1e-3, max_iterations: int = 200, padded_classes: int = 0
) -> dict[str, float]:
    """Fits a linear classifier on `train` and measures it on `test`.

    It minimises mean cross-entropy + l2 / 2 * |weights|^2 (without the bias) over features standardised with the
    statistics of `train`, by full-batch L-BFGS from zero. The problem is convex and nothing is random: equal inputs
    give equal results.

    Args:
        train: (features [n D], int labels [n] in [0, num_classes)).
        test: features and labels of other clips.
        num_classes: C.
        l2: strength of the penalty per standardised feature, >= 0.
        max_iterations: limit of L-BFGS steps; it stops earlier once the gradient norm is below 1e-4.
        padded_classes: pad the weights to so many classes, without influence on the result, so that several labellings
            of the same features share one compiled program.

    Returns:
        `top1`, `top5` (with more than five classes) and `train_top1` in per cent, `iterations`, and the final
        `gradient_norm`.

    Raises:
        ValueError: shapes that disagree, labels out of range, features that are not finite.
    """
    (train_x, train_y), (test_x, test_y) = (
        _checked(name, split, num_classes) for name, split in (("train", train), ("test", test))
    )
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError(
            f"train features are {train_x.shape[1]} wide, test features {test_x.shape[1]}; "
            "both splits must come from the same network"
        )
    mean, std = train_x.mean(axis=0, dtype=np.float64), train_x.std(axis=0, dtype=np.float64)
    is_constant = std <= 1e-6 * np.maximum(1e-6, np.abs(mean))  # rounding noise must not become a feature
    scale = np.where(is_constant, 0, 1 / np.where(is_constant, 1, std))
    train_x, test_x = _in_row_space(*(((x - mean) * scale).astype(np.float32) for x in (train_x, test_x)))
    params, iterations, gradient_norm = _fit(train_x, train_y, l2, num_classes, padded_classes, max_iterations)
    test_scores = test_x @ params["weights"].T + params["bias"]
    result = {"top1": accuracy(test_scores, test_y)}
    if num_classes > 5:
        result["top5"] = accuracy(test_scores, test_y, top=5)
    result["train_top1"] = accuracy(train_x @ params["weights"].T + params["bias"], train_y)
    return result | {"iterations": float(iterations), "gradient_norm": float(gradient_norm)}


def _in_row_space(train_x: np.ndarray, test_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fewer columns, where there are more than clips to fit: the same problem in a basis of the space of `train_x`.

    Weights outside of that space would only be penalised, and L-BFGS, which starts from zero, never leaves it.
    """
    if train_x.shape[1] <= len(train_x):
        return train_x, test_x
    basis, _ = np.linalg.qr(train_x.T.astype(np.float64))
    return (train_x @ basis).astype(np.float32), (test_x @ basis).astype(np.float32)


def _checked(name: str, split, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(split[0], np.float32), np.asarray(split[1])
    if features.ndim != 2:
        raise ValueError(f"{name} features have shape {features.shape}; expected [n D]")
    check_labels(f"{name} labels", labels, len(features), num_classes)
    check_finite(f"{name} features", features)
    return features, labels


def _fit(x, labels, l2, num_classes, padded_classes, max_iterations):
    """Minimises the penalised cross-entropy; returns (params, iterations, gradient norm).

    Padding classes are excluded from the softmax, and their weights stay zero.
    """
    is_class = np.arange(max(num_classes, padded_classes)) < num_classes
    params, iterations, gradient_norm = _minimize(x, labels, l2, is_class, max_iterations)
    return {name: np.asarray(values)[:num_classes] for name, values in params.items()}, iterations, gradient_norm


@partial(jax.jit, static_argnames="max_iterations")
def _minimize(x, labels, l2, is_class, max_iterations):
    """L-BFGS on the device. `weights` are [C D]: products with a narrow [D C] take three times as long on CPUs."""
    num_classes = len(is_class)

    def loss(params):
        scores = jnp.einsum("nd,cd->nc", x, params["weights"], precision=FP32) + params["bias"]
        scores = jnp.where(is_class, scores, -jnp.inf)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()
        return cross_entropy + l2 / 2 * (params["weights"] ** 2).sum()

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        params, state, _, iteration = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state, optax.tree.norm(grad), iteration + 1

    def is_unfinished(carry):
        return (carry[3] < max_iterations) & (carry[2] > 1e-4)

    params = {"weights": jnp.zeros((num_classes, x.shape[1])), "bias": jnp.zeros(num_classes)}
    params, _, gradient_norm, iterations = jax.lax.while_loop(
        is_unfinished, step, (params, solver.init(params), jnp.inf, 0)
    )
    return params, iterations, gradient_norm
