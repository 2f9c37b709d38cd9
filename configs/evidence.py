"""The evidence run: SIGMA-MLP and its controls at toy scale, with the same budget each.

Expected: the tables in launch/EVIDENCE.md, ours. Cost: about 7 minutes for 3,000 steps on two quiet cores.

    python -m sigma_jax.tools.evidence --workdir=runs/evidence --data_dir=DATA/shapes
    python -m sigma_jax.main --config=configs/evidence.py:arm=learned --workdir=... --data_dir=DATA/shapes   (one arm)

arm: sigma (SIGMA-MLP, hard assignments), soft (SIGMA-MLP, soft assignments), pixel (VideoMAE control), learned (L2 on
targets learned together with the predictions: collapses).
warmup: per cent of the steps in which the learning rate rises (6, as the published 40 of 800 epochs are 5).
data: shapes (rendered by tools.synthetic), videos (real ones, resampled heavily: random crops of every second frame).
"""

from ml_collections import ConfigDict

from sigma_jax.runtime.config import load_config, parse_arg

TARGETS = {"sigma": "mlp", "soft": "mlp", "pixel": "pixel", "learned": "learned"}


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, arm=tuple(TARGETS), warmup=6.0, data=("shapes", "videos"))
    c = load_config(f"configs/demo.py:size=tiny,teacher=tiny,target={TARGETS[choice.arm]}").unlock()
    c.objective.assignments = "soft" if choice.arm == "soft" else "hard"
    c.optim.warmup_percent = choice.warmup
    c.evals.knn.every_steps = 150
    if choice.data == "videos":
        c.evals.knn.every_steps = 0
        c.data.crop = "multi_scale"
        c.data.frame_stride = 2
    return c
