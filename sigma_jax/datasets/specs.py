"""Known data sets by name: their numbers of classes and videos, and how their clips are sampled.

Counts of K400 and SSv2 are those of the lists on which the published recipes train; UCF101 and HMDB51 are split 1 of
the official lists. `frame_stride` of K400 and SSv2 is that of SIGMA's pre-training, the others follow K400.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSpec:
    """One data set. A count of 0 means that any number is fine."""

    num_classes: int
    num_train: int
    num_val: int
    frame_stride: int
    num_frames: int = 16
    image_size: int = 224
    source: str = ""


SPECS = {
    "k400": DataSpec(400, 240_436, 19_796, 4, source="Kinetics-400, Kay et al. 2017 (arXiv 1705.06950)"),
    "ssv2": DataSpec(174, 168_913, 24_777, 2, source="Something-Something V2, Goyal et al. 2017 (arXiv 1706.04261)"),
    "ucf101": DataSpec(101, 9_537, 3_783, 4, source="UCF101 split 1, Soomro et al. 2012 (arXiv 1212.0402)"),
    "hmdb51": DataSpec(51, 3_570, 1_530, 4, source="HMDB51 split 1, Kuehne et al. 2011 (ICCV)"),
    "gym99": DataSpec(99, 20_484, 8_521, 4, source="FineGym, Shao et al. 2020 (arXiv 2004.06704)"),
    "ucf_1000": DataSpec(101, 1_010, 3_783, 4, source="SEVERE, Thoker et al. 2022 (arXiv 2203.14221)"),
    "gym_1000": DataSpec(99, 1_089, 8_521, 4, source="SEVERE, Thoker et al. 2022 (arXiv 2203.14221)"),
    "fx_s1": DataSpec(11, 1_882, 777, 4, source="SEVERE, Thoker et al. 2022 (arXiv 2203.14221)"),
    "ub_s1": DataSpec(15, 3_511, 1_471, 4, source="SEVERE, Thoker et al. 2022 (arXiv 2203.14221)"),
    "ucf_rc": DataSpec(23, 421, 105, 1, source="UCFRep, Zhang et al. 2020 (arXiv 2005.08465)"),
    "diving48": DataSpec(48, 0, 0, 4, source="Diving48, Li et al. 2018 (ECCV)"),
    "charades": DataSpec(157, 7_985, 1_863, 4, source="Charades, Sigurdsson et al. 2016 (arXiv 1604.01753)"),
    "imagenet1k": DataSpec(1000, 1_281_167, 50_000, 1, source="ImageNet-1K, Russakovsky et al. 2015 (arXiv 1409.0575)"),
    "cifar100": DataSpec(100, 50_000, 10_000, 1, source="CIFAR-100, Krizhevsky 2009"),
    "synthetic": DataSpec(
        40, 0, 0, 1, num_frames=8, image_size=32, source="datasets/synthetic.py: 8 motions x 5 shapes"
    ),
}

# Hashes of the class names in order (data/metadata.label_hash); the names are in label_maps/.
LABEL_HASHES = {
    "k400": "a8dafb93a1204d4e",
    "ssv2": "a31a2ad624a558d6",
    "ucf101": "3ec3894f84996395",
    "hmdb51": "154ef596b6037121",
    "gym99": "5fc43c5c33f58407",
    "diving48": "ac5346072bf06ba4",
    "charades": "65ff41554443bff4",
}
# Class names that no licence permits to ship: the user's own list (Charades_v1_classes.txt) is compared with the hash.
NOT_SHIPPED = ("charades",)


def expected_videos(name: str, split: str) -> int:
    """How many videos a split should have; 0 where that is not known or any number is fine."""
    spec = SPECS.get(name)
    if spec is None:
        return 0
    return {"train": spec.num_train, "val": spec.num_val, "validation": spec.num_val, "test": spec.num_val}.get(
        split, 0
    )
