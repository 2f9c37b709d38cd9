"""Exact GELU, with a backward pass that needs its input only."""

import jax
import jax.numpy as jnp
from jax import lax


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + lax.erf(x * 0.5**0.5))


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's cdf at x, by erf as torch computes it; any shape, dtype of x.

    Automatic differentiation would keep intermediates of erf for the backward pass; this keeps x.
    """
    return x * _normal_cdf(x)


def _forward(x):
    return gelu(x), x


def _backward(x, gradient):
    density = jnp.exp(-0.5 * x * x) * (2.0 * jnp.pi) ** -0.5
    return (gradient * (_normal_cdf(x) + x * density),)


gelu.defvjp(_forward, _backward)
