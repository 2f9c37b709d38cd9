"""Attentive probe on a frozen encoder: one learned query pools the tokens (after V-JEPA, Bardes et al. 2024).

Expected: nothing published, SIGMA's paper has no such probe; every setting is this project's. Cost: as the linear
probe, and the pooling's attention and MLP.

    python -m sigma_jax.main --config=configs/attentive_probe.py:dataset=ssv2 --init=runs/k400 --workdir=runs/ap ...

This file holds only what differs from configs/linear_probe.py.
"""

from ml_collections import ConfigDict

from sigma_jax.runtime.config import load_config

OURS = ("attentive pooling is not in the paper: its architecture and settings are ours",)


def get_config(arg: str | None = None) -> ConfigDict:
    c = load_config(f"configs/linear_probe.py:{arg or ''}").unlock()
    c.task = "attentive_probe"
    c.model.pooling = "attentive"
    c.model.drop_path = 0.0  # the frozen encoder as it is
    c.decisions = (*c.decisions, *OURS)
    return c
