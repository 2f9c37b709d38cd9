"""Types of nested arrays."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

# Dicts, tuples and named tuples of arrays, or of their shapes.
Tree = Mapping[str, "Tree"] | Sequence["Tree"] | jax.Array | np.ndarray | jax.ShapeDtypeStruct
Params = Mapping[str, Tree]  # of a model, named as its modules
