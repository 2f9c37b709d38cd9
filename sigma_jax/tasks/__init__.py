"""Tasks, what a run can learn: one file per task, and their protocol in base.py."""
