"""SIGMA pre-training on Something-Something v2, ViT-B, 800 epochs (SIGMA, ECCV 2024, arXiv 2407.15447).

Expected, the paper's numbers: 70.4 (target=mlp) or 70.9 (target=dino) top-1 on Something-Something v2 after finetuning.
Cost: 800 epochs x 168,913 clips; the authors used 16 GPUs x 32 clips. ViT-S (size=S): global batch 128, epsilon .05,
2400 epochs.

    python -m sigma_jax.main --config=configs/ssv2.py --workdir=runs/ssv2 --data_dir=DATA/ssv2

This file holds only what differs from configs/k400.py.
"""

from ml_collections import ConfigDict

from sigma_jax.runtime.config import load_config


def get_config(arg: str | None = None) -> ConfigDict:
    c = load_config(f"configs/k400.py:{arg or ''}").unlock()
    c.data.frame_stride = 2
    c.batch_size = 512
    c.objective.epsilon = 0.03
    if c.model.size == "S":
        c.batch_size = 128
        c.objective.epsilon = 0.05
        c.total_epochs = 2400.0
    return c
