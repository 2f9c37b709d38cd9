"""Linear probe on a frozen encoder, the recipe of SIGMA's released SSv2 script (ECCV 2024, arXiv 2407.15447).

Expected, the paper's top-1 (ViT-B, pre-trained on K400; SIGMA-MLP / SIGMA-DINO): SSv2 19.9 / 20.8, K400 30.7 / 47.5,
UCF101 73.8 / 80.7, HMDB51 45.0 / 52.3, ImageNet-1K 24.1 / 45.0, CIFAR-100 46.2 / 66.7. Cost: 30 epochs, 100 for UCF101,
HMDB51 and CIFAR-100, each two augmented copies of every video.

    python -m sigma_jax.main --config=configs/linear_probe.py:dataset=ucf101 --init=runs/k400 --workdir=runs/lp ...

Trained: a LayerNorm on the mean of the last block's tokens, and the linear layer. As published, all finetuning
augmentation stays on, and stochastic depth acts on the frozen encoder. The authors released SSv2 only; the settings of
the other sets are this project's. Images are still clips (launch/EVALUATE.md).
"""

from ml_collections import ConfigDict

from sigma_jax.runtime.config import load_config, parse_arg

OURS = ("probe settings of this data set are ours: SIGMA released only the SSv2 script",)
STILLS = ("an image is a clip that shows it 16 times",)


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(
        arg,
        dataset=("ssv2", "k400", "ucf101", "hmdb51", "imagenet1k", "cifar100", "folder"),
        size=("B", "S", "L", "H", "tiny"),
    )
    recipe = choice.dataset if choice.dataset in ("ssv2", "folder") else "k400"
    c = load_config(f"configs/finetune.py:dataset={recipe},size={choice.size}").unlock()
    c.task = "linear_probe"
    c.model.freeze_encoder = True
    c.data.name = choice.dataset
    c.batch_size = 384
    c.data.repeats = 2
    c.total_epochs = 30.0
    if choice.dataset != "ssv2":
        c.decisions = (*c.decisions, *OURS)
    if choice.dataset in ("ucf101", "hmdb51", "cifar100"):
        c.total_epochs = 100.0
    if choice.dataset in ("imagenet1k", "cifar100"):
        c.decisions = (*c.decisions, *STILLS)
        c.evals.num_views = 1
        c.evals.num_crops = 1
    if choice.dataset == "imagenet1k":
        c.data.short_side = 256
        c.data.rand_augment = ()  # random crop and flip only, of the host's augmentation
    if choice.dataset == "cifar100":
        c.data.interpolation = "bicubic"  # 32 pixels to 224
        c.data.rand_augment = ()
        c.data.test_split = "test"
        c.data.val_split = "test"
    if choice.dataset == "folder":
        c.batch_size = 32
        c.data.repeats = 1
    return c
