"""The number that stands for "unknown" in arrays of labels and offsets.

It has a module of its own so that code that reads data need not import JAX.
"""

IGNORED = -1
