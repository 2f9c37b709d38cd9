"""Arrays that a GPU's compiler is made to write to memory once, where it would compute or slice them again.

XLA computes what is cheap again in every kernel that uses it, or keeps what two kernels share. In three places that
costs a GPU more than it saves (launch/BENCHMARKS.md): an intermediate of GELU that is kept in fp32, a normalised input
times its gradient that is written in fp32, and weights that are sliced inside of a product, which then adds no bias.
"""

import jax
from jax import lax

from sigma_jax.runtime.trees import Tree


def stored(arrays: Tree) -> Tree:
    """The same arrays; what an NVIDIA GPU computes from them starts at their stored values. No effect elsewhere."""
    return lax.platform_dependent(arrays, cuda=lax.optimization_barrier, default=lambda same: same)


def stored_kernels(params: Tree, dtype: jax.typing.DTypeLike) -> Tree:
    """One block's parameters with its matrices stored, where they are of the products' 16-bit `dtype` already.

    Others are converted on the way out of their stack, and are stored by that.
    """
    return jax.tree.map(lambda x: stored(x) if x.ndim > 1 and x.dtype == dtype and x.dtype.itemsize == 2 else x, params)
