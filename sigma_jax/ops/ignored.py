"""The mark of what is not known in arrays of integers; apart from the rest, since readers of data need no JAX."""

IGNORED = -1
