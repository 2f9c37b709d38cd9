"""Images as still clips: numbering of classes, the same picture in every frame, bad files."""

import numpy as np
import pytest
from PIL import Image

from sigma_jax.data.classes import read_classes
from sigma_jax.data.finetune_augment import ViewCrop
from sigma_jax.data.labelled import LabelledSpec, open_labelled, train_loader, view_loader
from sigma_jax.data.records import DataSetError
from sigma_jax.data.sampling import FrameSampling

SPEC = LabelledSpec(FrameSampling("dense", 4, 4), 16, 2, crops=ViewCrop(short_side=20))


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "ant"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    Image.open(tmp_path / "val" / "ant" / "0.png").convert("L").save(tmp_path / "val" / "ant" / "0.png")  # grey
    return tmp_path


def test_views_of_images(images):
    batches = list(view_loader(images, SPEC, global_batch=3))
    labels = np.concatenate([batch["label"] for batch in batches])
    weights = np.concatenate([batch["weight"] for batch in batches])
    assert labels[weights > 0].tolist() == [0, 0, 1, 1] and weights.tolist() == [1, 1, 1, 1, 0, 0]
    for batch in batches:
        assert (batch["video"] == batch["video"][:, :1]).all()
    grey = batches[0]["video"][0, 0]
    assert grey.any() and (grey == grey[..., :1]).all()
    key = bytes(batches[0]["key"][0]).rstrip(b"\0")
    assert key == b"ant/0.png"


def test_training_on_images(images):
    loader = train_loader(images, SPEC, global_batch=4, seed=1)
    batch = next(loader)
    loader.close()
    assert batch["video"].shape == (4, 4, 16, 16, 3) and (batch["video"] == batch["video"][:, :1]).all()
    assert set(batch["label"].tolist()) <= {0, 1}


def test_classes_are_the_folders_or_the_label_map(images):
    assert read_classes(images).names == ("ant", "cat")
    (images / "label_map.txt").write_text("cat\nant\n")
    assert read_classes(images).names == ("cat", "ant")
    assert open_labelled(images, "val")[0].label == 1
    (images / "label_map.txt").write_text("cat\n")
    with pytest.raises(DataSetError, match=r"without a line in label_map.txt: \['ant'\]"):
        open_labelled(images, "val")


def test_empty_split_and_unreadable_image(images):
    (images / "val" / "ant" / "0.png").write_bytes(b"no image")
    loader = view_loader(images, SPEC, global_batch=4)
    assert next(loader)["weight"].tolist() == [0, 1, 1, 1]
    assert "not readable as an image" in loader.bad_records[0]["reason"] and loader.bad_records[0]["key"] == "ant/0.png"
    with pytest.raises(DataSetError, match="holds 0 images"):
        open_labelled(images, "test")
