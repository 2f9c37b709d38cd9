"""A grid of attentive probes on the stored tokens of a frozen encoder, as V-JEPA 2 measures (Assran et al. 2025).

Expected: nothing published for SIGMA. Cost: the tokens once, then all heads on them; the command forecasts it. Read by
tools.probe_attentive, not by main (configs/attentive_probe.py trains one smaller head with augmentation):

    python -m sigma_jax.tools.probe_attentive --config=configs/attentive_grid.py:dataset=ssv2 --init=runs/k400 \\
        --data_dir=DATA/ssv2 --out=probe/ssv2 --config.data.num_segments=2 --config.data.num_crops=3

Frames, size of the pictures and of the encoder are those of the weights. dataset chooses how clips are sampled, as in
configs/linear_probe.py.
"""

from ml_collections import ConfigDict

from sigma_jax.runtime.config import load_config, parse_arg

FROM_RECIPE = ("name", "split", "test_split", "sampling", "frame_stride", "short_side", "interpolation")
READING = ("num_workers", "decoder", "decode_timeout")


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, dataset=("folder", "ssv2", "k400", "ucf101", "hmdb51", "imagenet1k", "cifar100"))
    recipe = load_config(f"configs/linear_probe.py:dataset={choice.dataset}")
    c = ConfigDict()
    c.task = "attentive_grid"
    c.seed = 0  # of the heads' first weights, the order of the clips, and their views
    c.decisions = ("not in the SIGMA paper: head, grid and schedule are V-JEPA 2's; views are not random",)

    c.data = ConfigDict({name: recipe.data[name] for name in FROM_RECIPE + READING})
    c.data.val_split = None  # chooses the head; None: every tenth training video
    c.data.num_segments = 1  # clips along time, which one query attends to together
    c.data.num_crops = 1  # of a clip: training takes one of them, a test the mean of their probabilities
    c.data.label_lists = None  # file of `key label label ...` lines: several labels, cross-entropy of each, mAP

    c.few_shot = ConfigDict()
    c.few_shot.videos_per_class = 0  # 0: all
    c.few_shot.seeds = (0, 1, 2)  # each chooses other videos; mean and spread are reported

    c.grid = ConfigDict()
    c.grid.learning_rates = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)  # peaks of a cosine schedule
    c.grid.weight_decays = (0.01, 0.1, 0.4, 0.8)  # every pair is a head
    c.grid.epochs = 20
    c.grid.warmup = 0.0  # share of the steps
    c.grid.batch_size = 64  # clips of a step, the same for all heads
    c.grid.depth = 4  # blocks of a head: 3 of self-attention, and the query's; 1: the query alone
    c.grid.num_heads = 16  # of its attention
    c.grid.heads_at_once = 0  # fewer at once need less memory; 0: all

    c.compute = ConfigDict()
    c.compute.dtype = "auto"  # bfloat16 on accelerators, float32 on CPU
    c.compute.clips_per_pass = 16  # of the encoder
    return c
