"""SIGMA pre-training on Kinetics-400, ViT-B, 800 epochs (SIGMA, ECCV 2024, arXiv 2407.15447).

Expected, the paper's numbers: 80.2 (target=mlp) or 81.6 (target=dino) top-1 on K400 after finetuning; 69.8 or 71.1 on
Something-Something v2. Cost: 800 epochs x 240,436 clips; the authors used 16 GPUs x 40 clips.

    python -m sigma_jax.main --config=configs/k400.py --workdir=runs/k400 --data_dir=DATA/k400
    python -m sigma_jax.main --config=configs/k400.py:size=S,target=dino --teacher=dino_b16.npz ...

target: mlp (SIGMA-MLP), dino (SIGMA-DINO), pixel (VideoMAE control), feature (regression of teacher features),
learned (regression of SIGMA-MLP's own projections: the control that collapses).
"""

from ml_collections import ConfigDict

from sigma_jax.runtime.config import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(
        arg,
        size=("B", "S", "L", "H", "tiny"),
        target=("mlp", "dino", "pixel", "feature", "learned"),
        teacher=("dino_b16", "dino_s16", "dinov2_s14", "dinov2_b14", "dinov2_l14", "tiny"),
    )
    c = ConfigDict()
    c.task = "pretrain"
    c.seed = 0
    c.needs_accelerator = True

    c.batch_size = 640  # global, all devices and hosts
    c.max_batch_per_device = 128  # more than this is split by gradient accumulation
    c.total_epochs = 800.0

    c.model = ConfigDict()
    c.model.size = choice.size
    c.model.num_frames = 16
    c.model.image_size = 224
    c.model.tube_size = (2, 16, 16)
    c.model.positions = "sincos_1d"

    c.objective = ConfigDict()
    c.objective.target = choice.target
    c.objective.teacher = choice.teacher  # of targets dino and feature
    c.objective.mask_kind = "tube"
    c.objective.mask_ratio = 0.9
    c.objective.num_prototypes = 3000
    c.objective.epsilon = 0.05
    c.objective.num_iters = 10
    c.objective.temperature = 0.1
    c.objective.assignments = "hard"
    c.objective.sweep_dtype = "auto"  # of the scores as they are kept: 16 bits on accelerators, float32 on CPU
    c.objective.queue_batches = 0  # past micro-batches that join Sinkhorn, for small batches (launch/PRETRAIN.md)
    c.objective.queue_start_batches = 10_000  # micro-batches before it joins
    c.objective.projection_widths = (1024, 1024, 512, 256)  # of targets mlp and learned
    c.objective.normalize_targets = True

    c.optim = ConfigDict()
    c.optim.base_lr = 1.5e-4  # for 256 clips; scaled by batch_size / 256
    c.optim.min_lr = 1e-5  # likewise
    c.optim.warmup_lr = 0.0  # likewise
    c.optim.betas = (0.9, 0.95)
    c.optim.weight_decay = 0.05
    c.optim.layer_decay = 1.0
    c.optim.ema_decay = None  # e.g. 0.9999: also average the weights
    c.optim.clip_norm = None
    c.optim.warmup_epochs = 40.0

    c.data = ConfigDict()
    c.data.split = "train"
    c.data.frame_stride = 4
    c.data.crop = "multi_scale"
    c.data.num_workers = 16  # decoding processes per host
    c.data.max_bad_fraction = 0.01
    c.data.decoder = "auto"  # of videos: auto is pyav; decord and torchcodec where they are installed
    c.data.decode_timeout = 60.0  # seconds; a video that takes longer counts as unreadable
    c.data.cache_decoded = False

    c.compute = ConfigDict()
    c.compute.dtype = "auto"  # bfloat16 on accelerators, float32 on CPU
    c.compute.attention = "auto"
    # of the teacher's products: auto is dtype; float8_e4m3fn (Hopper) is faster and changes some 2 % of the hard
    # assignments, bfloat16 0.5 % (measured with random weights, launch/BENCHMARKS.md)
    c.compute.teacher_dtype = "auto"
    c.compute.remat = "auto"  # what the backward pass recomputes: cheap on CPU, none on accelerators; also dots, full
    c.compute.unroll = "auto"  # blocks per scan step: all of them on GPUs, 1 elsewhere; or a number, 0 for all

    c.mesh = ConfigDict()
    c.mesh.data = -1
    c.mesh.fsdp = 1

    c.evals = ConfigDict()
    c.evals.knn = ConfigDict()
    c.evals.knn.every_epochs = 0.0  # off; the splits below are small labelled shards in the data folder
    c.evals.knn.bank_split = "bank"
    c.evals.knn.test_split = "val"
    c.evals.knn.k = 200
    c.evals.segmentation = ConfigDict()
    c.evals.segmentation.every_epochs = 0.0  # off; annotated sequences, in the data folder or anywhere
    c.evals.segmentation.folder = "segmentation"
    c.evals.segmentation.layout = "folder"  # or davis, ytvos
    c.evals.segmentation.split = ""
    c.evals.segmentation.num_clips = 32

    c.log_every_steps = 50
    c.checkpoint = ConfigDict()
    c.checkpoint.save_every_epochs = 1.0
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_every_epochs = 100.0
    c.health = ConfigDict()
    c.health.max_nonfinite_run = 20
    return c
