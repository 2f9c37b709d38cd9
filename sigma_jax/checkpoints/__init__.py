"""Checkpoints and weights: Orbax, published formats, reports of what was loaded."""
