"""The trainer, the same for all tasks: plan (plan.py), compiled step (program.py, step.py), training loop (loop.py)."""
