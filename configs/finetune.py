"""Finetuning on labelled videos, the recipe of SIGMA's released scripts (ECCV 2024, arXiv 2407.15447).

Expected, the paper's numbers after 800 epochs of pre-training on K400, ViT-B: K400 80.2 (SIGMA-MLP) and 81.6
(SIGMA-DINO), SSv2 69.8 and 71.1 top-1. Cost: 100 epochs of K400 or 40 of SSv2; the authors used 8 GPUs x 4 clips.

    python -m sigma_jax.main --config=configs/finetune.py:dataset=ssv2 --init=runs/k400 --workdir=runs/ft --data_dir=D

dataset: k400, ssv2 (the authors' scripts); ucf101, hmdb51 (VideoMAE's recipe for UCF101, since the authors released
none); folder: your own videos, with the classes of their label map (launch/EVALUATE.md). Batch sizes count videos, not
their augmented copies.

Settings that this file leaves out (encoder, frames of a clip, machine) are those of configs/k400.py.
"""

from ml_collections import ConfigDict

from sigma_jax.runtime.config import load_config, parse_arg

FIXES = (
    "validation during training takes one central view; the released code draws it at random",
    "videos shorter than a clip are spread evenly (uniform sampling); the released code repeats frame 0",
    "one mixing coefficient for the global batch; the released code draws one per device",
    "views are merged by the number of the record; the released code merges files of equal names",
    "frames are uint8 between the operations of the augmentation",
)
OWN_RECIPE = ("recipe and views after VideoMAE's UCF101 script: SIGMA released none for this data set",)


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, dataset=("k400", "ssv2", "ucf101", "hmdb51", "folder"), size=("B", "S", "L", "H", "tiny"))
    c = load_config(f"configs/k400.py:size={choice.size}").unlock()
    c.task = "finetune"
    c.decisions = FIXES  # where the protocol is ours; printed in every result

    c.batch_size = 32  # videos, global
    c.max_batch_per_device = 64  # clips; more than this is split by gradient accumulation
    c.total_epochs = 100.0

    c.model.pooling = "mean"
    c.model.freeze_encoder = False
    c.model.drop_path = 0.1
    c.model.dropout = 0.0  # before the head
    c.model.head_init_scale = 0.001

    c.objective = ConfigDict()
    c.objective.smoothing = 0.1
    c.objective.mixes = True
    c.objective.mixup_alpha = 0.8
    c.objective.cutmix_alpha = 1.0
    c.objective.cutmix_share = 0.5
    c.objective.erase_probability = 0.25

    c.optim = ConfigDict()
    c.optim.base_lr = 1e-3  # for 256 videos; the three are scaled by batch_size / 256
    c.optim.min_lr = 1e-6
    c.optim.warmup_lr = 1e-6  # where the warm-up starts
    c.optim.betas = (0.9, 0.999)
    c.optim.weight_decay = 0.05
    c.optim.layer_decay = 0.75
    c.optim.clip_norm = None
    c.optim.ema_decay = None  # e.g. 0.9999: evaluate averaged weights
    c.optim.warmup_epochs = 5.0

    del c.data.crop
    c.data.name = choice.dataset
    c.data.val_split = "val"
    c.data.test_split = "val"
    c.data.num_classes = None  # counted in the data; a known data set must have what it should
    c.data.label_hash = None  # of the label map, filled in
    c.data.sampling = "dense"
    c.data.repeats = 1  # augmented copies of each video in a batch
    c.data.min_area = 0.25
    c.data.flip = 0.5
    c.data.interpolation = "bilinear"
    c.data.short_side = 0  # of test views, 0: the image size
    c.data.rand_augment = (7.0, 4.0, 0.5)  # magnitude, operations, std; () for none

    c.evals = ConfigDict()
    c.evals.val_every_epochs = 1.0
    c.evals.num_views = 5  # of the final test
    c.evals.num_crops = 3
    c.evals.batch_size = 64  # views, global

    c.compute.remat = "none"
    c.checkpoint.keep_last = 1
    c.checkpoint.keep_every_epochs = 0.0

    if choice.dataset == "ssv2":
        c.total_epochs = 40.0
        c.data.sampling = "uniform"
        c.data.flip = 0.0  # its classes know left from right
        c.evals.num_views = 2
    if choice.dataset in ("ucf101", "hmdb51"):
        c.decisions = (*FIXES, *OWN_RECIPE)
        c.batch_size = 128
        c.data.repeats = 2
        c.model.drop_path = 0.2
        c.model.dropout = 0.5
        c.optim.base_lr = 5e-4
        c.optim.layer_decay = 0.7
        c.optim.min_lr = 1e-5
        c.optim.warmup_lr = 1e-8
    if choice.size == "tiny":  # the model of configs/demo.py
        c.model.num_frames = 8
        c.model.image_size = 32
        c.model.tube_size = (2, 8, 8)
        c.model.positions = "sincos_3d"
        c.data.frame_stride = 1
        c.data.flip = 0.0  # moving shapes know left from right, a corner from the middle
        c.data.min_area = 1.0
        c.data.rand_augment = ()
        c.objective.mixes = False
        c.objective.erase_probability = 0.0
        c.optim.base_lr = 8e-3  # 1e-3 at 32 videos
        c.evals.num_views = 1
        c.evals.num_crops = 1
    if choice.dataset == "folder":
        c.needs_accelerator = False
        c.decisions = (*FIXES, "the K400 recipe with fewer epochs on a data set of one's own")
        c.total_epochs = 30.0
        c.data.num_workers = 2
    return c
