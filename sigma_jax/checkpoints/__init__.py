"""Checkpoints of a run, written and restored with Orbax; files of weights are the business of `weights/`."""
