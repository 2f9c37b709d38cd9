"""What a run can learn: one file per task, and the protocol that all of them keep (base.py)."""
