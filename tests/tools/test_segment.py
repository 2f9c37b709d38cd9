"""The command from a folder of sequences to numbers and pictures, with tiny weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sigma_jax.evals.segmentation.benchmark import TubePixels
from sigma_jax.tools import segment
from sigma_jax.weights.frozen import Pretrained
from sigma_jax.weights.weights_file import write_npz
from tests.evals.segmentation.conftest import davis, moving_square, write_frame, write_mask, ytvos  # noqa: F401 - fixtures
from tests.weights.weights_samples import sample

SMALL = ("--num_frames=4", "--image_size=32", "--restarts=1")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    for name in ("pretrain_dino_swav", "dino_vit"):
        content = sample(name)
        if content.kind != "teacher":
            content.sizes.update(image_size=32)
        write_npz(root / f"{name}.npz", content)
    return root


def run(data, out, *flags, dataset="davis"):
    return segment.main([f"--data_dir={data}", f"--dataset={dataset}", f"--out={out}", *flags])


def cluster(data, out, weights, *flags, name="pretrain_dino_swav", **options):
    return run(
        data, out, f"--init={weights / name}.npz", "--protocol=clustering,overclustering", *SMALL, *flags, **options
    )


def result(out):
    return json.loads((out / "result.json").read_text())


def test_two_protocols_in_one_command(davis, weights, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out"
    assert cluster(davis, out, weights, "--seeds=0,1", "--animations") == 0
    found = result(out)
    assert found["protocol"] == ["clustering", "overclustering"] and found["split"] == "val" and found["complete"]
    assert sorted(found["clips"]) == ["cat", "dog"] and len(found["weights"]) == 16
    assert "statistics" in found["decisions"] and found["settings"]["seeds"] == [0, 1]
    for protocol in found["protocol"]:
        clips = [clip[seed]["scores"][protocol]["miou"] for seed in "01" for clip in found["clips"].values()]
        assert found["scores"][protocol]["score"] == pytest.approx(100 * np.mean(clips))
        picture = Image.open(out / f"overlays/{protocol}/cat.png")
        assert picture.width > picture.height and Image.open(out / f"overlays/{protocol}/cat.gif").n_frames == 4
    printed = capsys.readouterr().out
    assert "clustering mIoU" in printed and f"{found['scores']['clustering']['score']:.1f}" in printed


def test_baselines_in_the_place_of_weights(davis, weights, tmp_path, capsys):  # noqa: F811
    found = {}
    for flags in ((), ("--baseline=pixels",), ("--baseline=random",), ("--baseline=random", "--baseline_seed=1")):
        out = tmp_path / ("out" + "".join(flags))
        assert cluster(davis, out, weights, "--seeds=0", "--overlays=1", *flags) == 0
        found[flags] = result(out)
        assert (found[flags]["weights"] is None) == (found[flags]["baseline"] is not None) == bool(flags)
    scores = [json.dumps(content["clips"]) for content in found.values()]
    assert len(set(scores)) == 4
    assert cluster(davis, tmp_path / "out--baseline=pixels", weights, "--seeds=0") == 1
    assert "baseline" in capsys.readouterr().err


def test_pixels_of_tubes_are_in_their_grid():
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 12, 3), np.uint8)
    found = TubePixels(4, 2).dense_features(video)
    assert found.shape == (2, 2, 2, 3, 2 * 4 * 4 * 3)
    np.testing.assert_allclose(found[1, 1, 0, 2].reshape(2, 4, 4, 3), video[1, 2:, :4, 8:] / 255, rtol=1e-6)


def test_finished_clips_are_not_computed_again(davis, weights, tmp_path, monkeypatch):  # noqa: F811
    out = tmp_path / "out"
    assert cluster(davis, out, weights, "--seeds=0") == 0
    first = result(out)
    seen = []
    dense = Pretrained.dense_features
    monkeypatch.setattr(Pretrained, "dense_features", lambda *args, **kw: seen.append(1) or dense(*args, **kw))
    assert cluster(davis, out, weights, "--seeds=0") == 0 and not seen
    (out / "clips/0/cat.json").unlink()  # the statistics are those of the batch: its features are needed again
    assert cluster(davis, out, weights, "--seeds=0") == 0 and len(seen) == 2
    assert result(out) == first


def test_features_of_an_interrupted_batch_are_kept(davis, weights, tmp_path, monkeypatch):  # noqa: F811
    out, seen = tmp_path / "out", []
    dense = Pretrained.dense_features

    def interrupted(self, video, **options):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return dense(self, video, **options)

    monkeypatch.setattr(Pretrained, "dense_features", interrupted)
    assert cluster(davis, out, weights, "--seeds=0") == 130
    assert cluster(davis, out, weights, "--seeds=0") == 0 and len(seen) == 3
    assert not (out / "tokens").exists()


def test_a_folder_of_other_results_is_refused(davis, weights, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out"
    assert cluster(davis, out, weights, "--seeds=0") == 0
    assert cluster(davis, out, weights, "--seeds=1") == 1
    assert "holds results of other settings (settings" in capsys.readouterr().err
    model = sample("pretrain_dino_swav")
    heads = model.sizes["num_heads"]
    model.sizes.update(image_size=32, num_heads=2 * heads)  # the same arrays
    write_npz(tmp_path / "pretrain_dino_swav.npz", model)
    assert cluster(davis, out, tmp_path, "--seeds=0") == 1
    assert f"(model.sizes.num_heads: {heads} -> {2 * heads})" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cluster(davis, tmp_path / "file", weights) == 1
    assert "results cannot be written to" in capsys.readouterr().err


def test_bad_sequences_are_named_and_counted(davis, weights, tmp_path, capsys):  # noqa: F811
    (davis / "Annotations/480p/cat/00002.png").unlink()
    for i in range(6):
        write_mask(davis / f"Annotations/480p/dog/{i:05d}.png", np.full((40, 60), 255 if i % 2 else 1))
    assert cluster(davis, tmp_path / "out", weights, "--seeds=0") == 0
    found = result(tmp_path / "out")
    assert not found["complete"] and found["num_clips"] == 1
    assert found["counts"] == {"left out: frame without a mask": 1, "void": 1}
    assert "00002" in found["left_out"][0]["reason"] and "dog" in found["notes"][0]
    assert "left out: cat: " in capsys.readouterr().out


def test_nothing_to_measure_is_an_error(davis, weights, tmp_path, capsys):  # noqa: F811
    for name in ("cat", "dog"):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(davis / f"Annotations/480p/{name}/00001.png")
    assert cluster(davis, tmp_path / "out", weights, "--num_frames=6") == 1
    assert "no clip could be measured; the first of 2" in (said := capsys.readouterr().err) and "RGB" in said


def test_an_image_teacher_and_classes_of_youtube_vos(ytvos, weights, tmp_path):  # noqa: F811
    assert cluster(ytvos, tmp_path / "out", weights, "--seeds=0", name="dino_vit", dataset="ytvos") == 0
    found = result(tmp_path / "out")
    assert found["clips"]["v1"]["0"]["scores"]["clustering"]["objects"] == [0, 2]
    assert "image model" in found["decisions"]["time"]


def test_rows_of_other_methods(davis, weights, tmp_path, capsys):  # noqa: F811
    one, two = tmp_path / "one", tmp_path / "two"
    assert cluster(davis, one, weights, "--seeds=0", "--label=first") == 0
    assert cluster(davis, two, weights, "--seeds=0", f"--beside={one}", name="dino_vit") == 0
    heights = [Image.open(out / "overlays/clustering/cat.png").height for out in (one, two)]
    assert heights[1] > heights[0]
    assert cluster(davis, tmp_path / "three", weights, "--seeds=3", f"--beside={one}") == 1
    assert "shows other frames of cat" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pretrain_dino_swav", "dino_vit"])
def test_propagation_writes_masks_that_score_the_same(davis, weights, tmp_path, name):  # noqa: F811
    out, again = tmp_path / "out", tmp_path / "again"
    flags = ("--protocol=propagation", f"--init={weights / name}.npz", "--short_side=48", "--radius=3")
    assert run(davis, out, *flags) == 0
    found = result(out)
    assert set(found["objects"]) == {"cat_1", "dog_1"} and 0 <= found["scores"]["J&F-Mean"] <= 1
    mask = Image.open(out / "predictions/cat/00003.png")
    assert mask.mode == "P" and mask.size == (60, 40)
    assert run(davis, again, "--protocol=propagation", f"--predictions={out / 'predictions'}") == 0
    assert result(again)["scores"] == found["scores"]
    assert (out / "overlays/cat.png").exists()


def test_clips_that_cannot_be_followed(davis, weights, tmp_path):  # noqa: F811
    for i in range(6):
        write_mask(davis / f"Annotations/480p/cat/{i:05d}.png", np.zeros((40, 60)))
    flags = ("--protocol=propagation", f"--init={weights / 'dino_vit'}.npz", "--short_side=48")
    assert run(davis, tmp_path / "out", *flags) == 0
    found = result(tmp_path / "out")
    assert found["counts"] == {"left out: no object in the first frame": 1}
    assert "cat/00000.png" in found["left_out"][0]["reason"]


def test_objects_that_cannot_be_followed_are_noted(davis, weights, tmp_path):  # noqa: F811
    for i in range(6):
        mask = moving_square(i, number=3)
        mask[0, 0] = 1  # smaller than a token
        mask[30:, :20] = 2 if i else 0  # from the second frame on
        write_mask(davis / f"Annotations/480p/cat/{i:05d}.png", mask)
        write_mask(davis / f"Annotations/480p/dog/{i:05d}.png", moving_square(i, number=38))
    flags = ("--protocol=propagation", f"--init={weights / 'dino_vit'}.npz", "--baseline=pixels", "--short_side=48")
    assert run(davis, tmp_path / "out", *flags) == 0
    found = result(tmp_path / "out")
    kinds = {"object not in the first frame": 1, "object vanished": 1, "object numbers with gaps": 1}
    assert found["counts"] == kinds and set(found["objects"]) == {"cat_1", "cat_2", "cat_3", "dog_38"}
    assert any("shows" not in note and "object 1 vanishes" in note for note in found["notes"])
    masks = {np.asarray(path).max() for path in map(Image.open, (tmp_path / "out/predictions/dog").iterdir())}
    assert masks == {38}
    write_frame(davis / "JPEGImages/480p/cat/00004.jpg", 0, size=(20, 60))
    assert run(davis, tmp_path / "again", *flags) == 0
    assert "cat/00004.jpg is (20, 60)" in result(tmp_path / "again")["left_out"][0]["reason"]


@pytest.mark.parametrize(
    "flags,said",
    [
        (("--protocol=magic", "--init=x"), "expected clustering, overclustering"),
        (("--protocol=clustering", "--init=x", "--topk=3"), "--topk has no meaning"),
        (("--protocol=propagation", "--init=x", "--dims=3"), "--dims has no meaning"),
        (("--protocol=clustering",), "expected --init=WEIGHTS"),
        (("--protocol=clustering", "--init=x", "--baseline_seed=3"), "belongs to --baseline=random"),
        (("--protocol=propagation", "--predictions=x", "--baseline=random"), "sizes from --init"),
    ],
)
def test_flags_that_do_not_go_together(davis, tmp_path, capsys, flags, said):  # noqa: F811
    assert run(davis, tmp_path / "out", *flags) == 2
    assert said in capsys.readouterr().err


def test_values_that_cannot_be(davis, weights, tmp_path, capsys):  # noqa: F811
    assert cluster(davis, tmp_path / "out", weights, "--draw=first") == 1
    assert "expected one of random, linspace" in capsys.readouterr().err


def test_the_bundled_sequences_run(weights, tmp_path):
    bundled = Path(__file__).resolve().parents[1] / "data/vos"
    assert cluster(bundled, tmp_path / "out", weights, "--seeds=0") == 0
    found = result(tmp_path / "out")
    assert found["complete"] and sorted(found["clips"]) == ["blackswan", "car-shadow"]
    same = ("--protocol=propagation", f"--predictions={bundled / 'Annotations/480p'}")
    assert run(bundled, tmp_path / "same", *same) == 0
    assert result(tmp_path / "same")["scores"]["J&F-Mean"] == 1
