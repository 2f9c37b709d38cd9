"""Images as still clips: numbering of classes, the same picture in every frame, bad files."""

import io

import numpy as np
import pytest
from PIL import Image

from sigma_jax.data.finetune_augment import ViewCrop
from sigma_jax.data.labelled import LabelledSpec
from sigma_jax.data.loader import LoaderSpec, OnePass, Shuffled, open_loader
from sigma_jax.data.records import DataSetError
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.data.source import open_source
from sigma_jax.datasets.classes import read_classes
from tests.data.conftest import NUM_CLIPS
from tests.data.loaders import training

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


def _views(folder, batch, split="val"):
    return open_loader(LoaderSpec(folder, split, SPEC, OnePass(allow_incomplete=True), batch))


def test_views_of_images(images):
    batches = list(_views(images, 3))
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
    loader = open_loader(LoaderSpec(images, "train", SPEC, Shuffled(seed=1), 4))
    batch = next(loader)
    loader.close()
    assert batch["video"].shape == (4, 4, 16, 16, 3) and (batch["video"] == batch["video"][:, :1]).all()
    assert set(batch["label"].tolist()) <= {0, 1}


def test_classes_are_the_folders_or_the_label_map(images):
    assert read_classes(images).names == ("ant", "cat")
    (images / "label_map.txt").write_text("cat\nant\n")
    assert read_classes(images).names == ("cat", "ant")
    assert open_source(images, "val")[0].label == 1
    (images / "label_map.txt").write_text("cat\n")
    with pytest.raises(DataSetError, match=r"without a line in label_map.txt: \['ant'\]"):
        open_source(images, "val")


def test_empty_split_and_unreadable_image(images):
    (images / "val" / "ant" / "0.png").write_bytes(b"no image")
    loader = _views(images, 4)
    assert next(loader)["weight"].tolist() == [0, 1, 1, 1]
    assert "not readable as an image" in loader.bad_records[0]["reason"] and loader.bad_records[0]["key"] == "ant/0.png"
    with pytest.raises(DataSetError, match=r"holds no shards .* and no images \(test/CLASS"):
        open_source(images, "test")


def test_pictures_of_a_run_do_not_make_its_data_an_image_folder(images, shards):
    """Neither in a folder below the shards, nor one that is named like their split."""
    for folder in (shards / "run" / "pictures", shards / "train" / "epoch"):
        folder.mkdir(parents=True)
        (folder / "clip.png").write_bytes((images / "val" / "ant" / "1.png").read_bytes())
    source = open_source(shards, "train")
    assert not source.stills and len(source) == NUM_CLIPS
    assert open_source(images, "val").stills
    (images / "runs" / "a" / "b").mkdir(parents=True)
    (images / "runs" / "a" / "b" / "clip.png").write_bytes(b"")
    with pytest.raises(DataSetError, match="no images"):
        open_source(images / "runs", "train")


def test_images_are_no_videos(images):
    with pytest.raises(DataSetError, match="holds images, one a record"):
        training(images, global_batch=2)


@pytest.fixture
def tfds_folder(tmp_path):
    """Five images written by tensorflow-datasets as array_record."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        __module__ = "__main__"  # a builder inside a package needs more packages
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image, label = tfds.features.Image(shape=(8, 8, 3)), tfds.features.ClassLabel(names=["b", "a"])
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                file = io.BytesIO()
                Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(file, "PNG")
                file.seek(0)
                yield i, {"image": file, "label": i % 2}

    builder = Tiny(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    return tmp_path / "tiny" / "1.0.0"


def test_images_of_tensorflow_datasets(tfds_folder):
    source = open_source(tfds_folder, "train")
    assert len(source) == 5 and read_classes(tfds_folder).names == ("b", "a")
    (batch,) = _views(tfds_folder, 5, "train")
    value = batch["video"][:, 0, 0, 0, 0]
    assert sorted(value.tolist()) == [0, 10, 20, 30, 40]
    assert batch["label"].tolist() == [(v // 10) % 2 for v in value.tolist()]
    with pytest.raises(DataSetError, match="no split 'val', only"):
        open_source(tfds_folder, "val")
