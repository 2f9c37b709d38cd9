"""Layer normalisation, with a backward pass that needs its input and two numbers per row."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sigma_jax.ops.stored import stored


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Layer normalisation over the last axis: (x - mean) / sqrt(variance + epsilon) * scale + bias.

    Automatic differentiation would keep fp32 copies of x for the backward pass; this keeps x as it is.

    Args:
      x: [... D], any float dtype.
      scale, bias: [D], fp32.
      epsilon: added to the variance.

    Returns:
      [... D], computed and returned in fp32.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    inverse = lax.rsqrt(variance + epsilon)
    return (wide - mean) * (inverse * scale) + bias, (x, scale, *stored((mean, inverse)))


def _backward(epsilon, saved, gradient):
    x, scale, mean, inverse = saved
    normal = (x.astype(jnp.float32) - mean) * inverse
    rows = tuple(range(x.ndim - 1))
    dscale, dbias = jnp.sum(gradient * normal, axis=rows), jnp.sum(gradient, axis=rows)
    dnormal = gradient * scale
    along, across = (jnp.mean(a, axis=-1, keepdims=True) for a in (dnormal * normal, dnormal))
    return ((dnormal - across - normal * along) * inverse).astype(x.dtype), dscale, dbias


layer_norm.defvjp(_forward, _backward)
