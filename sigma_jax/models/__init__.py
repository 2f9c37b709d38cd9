"""Flax modules: they know shapes, not losses, not devices, not config objects."""
