"""SIGMA at toy scale: labelled moving shapes, 8 frames of 32x32, two CPU cores, about three minutes.

Expected (ours, `./launch/demo.sh` prints it): motion k-NN >= 60 % and joint linear >= 40 %, against about 20 % and 30 %
for random weights (measured: launch/EVIDENCE.md). Same code as configs/k400.py at other sizes.

    ./launch/demo.sh
    python -m sigma_jax.main --config=configs/demo.py --workdir=runs/demo --data_dir=DATA/shapes
"""

from ml_collections import ConfigDict

from sigma_jax.runtime.config import load_config


def get_config(arg: str | None = None) -> ConfigDict:
    c = load_config(f"configs/k400.py:{arg or 'size=tiny,teacher=tiny'}").unlock()
    c.needs_accelerator = False
    c.batch_size = 64
    c.max_batch_per_device = 64
    del c.total_epochs
    c.total_steps = 900

    c.model.num_frames = 8
    c.model.image_size = 32
    c.model.tube_size = (2, 8, 8)
    c.model.positions = "sincos_3d"
    c.objective.mask_ratio = 0.75
    c.objective.num_prototypes = 128
    c.objective.projection_widths = (256, 256, 128, 64)

    c.optim.base_lr = 4e-3  # 1e-3 at 64 clips
    c.optim.min_lr = 4e-6
    del c.optim.warmup_epochs
    c.optim.warmup_percent = 6.0

    c.data.frame_stride = 1
    c.data.crop = "none"
    c.data.num_workers = 0
    c.data.cache_decoded = True
    c.data.decode_timeout = 0.0  # of these tiny videos a thread each would cost more than decoding

    del c.evals.knn.every_epochs
    c.evals.knn.every_steps = 450
    c.evals.knn.k = 20
    del c.evals.segmentation.every_epochs
    c.evals.segmentation.every_steps = 450

    c.log_every_steps = 20
    del c.checkpoint.save_every_epochs
    c.checkpoint.save_every_steps = 300
    del c.checkpoint.keep_every_epochs
    c.checkpoint.keep_every_steps = 0
    return c
