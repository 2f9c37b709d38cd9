"""Measurement of checkpoints: evaluators yield (name, number)."""
