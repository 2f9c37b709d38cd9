"""One video and weights to a picture."""

from pathlib import Path

import pytest
from PIL import Image

from sigma_jax.tools import pictures
from sigma_jax.weights.weights_file import write_npz
from tests.weights.weights_samples import sample

VIDEO = Path(__file__).resolve().parents[1] / "data/clips/sign/milk.webm"


def draw(tmp_path, name, *flags):
    weights = sample(name)
    if weights.kind != "teacher":
        weights.sizes.update(image_size=32)
    write_npz(tmp_path / f"{name}.npz", weights)
    out = tmp_path / "out"
    return pictures.main([f"--init={tmp_path / name}.npz", f"--video={VIDEO}", f"--out={out}", *flags]), out


@pytest.mark.parametrize("name,kind", [("pretrain_mlp_swav", "prototypes"), ("pretrain_pixel_l2", "reconstruction")])
def test_weights_decide_the_picture(tmp_path, name, kind):
    status, out = draw(tmp_path, name)
    assert status == 0 and Image.open(out / f"milk_{kind}.png").width > 300


def test_fewer_prototypes_make_a_smaller_picture(tmp_path):
    heights = []
    for count in (1, 7):
        _, out = draw(tmp_path, "pretrain_mlp_swav", f"--prototypes={count}")
        heights.append(Image.open(out / "milk_prototypes.png").height)
    assert heights[0] <= heights[1]


def test_what_is_lacking_is_said(tmp_path, capsys):
    assert draw(tmp_path, "pretrain_pixel_l2", "--kind=prototypes")[0] == 1
    assert "has no prototypes" in capsys.readouterr().err
    assert draw(tmp_path, "pretrain_dino_swav")[0] == 1
    assert "--teacher=WEIGHTS" in capsys.readouterr().err
    assert draw(tmp_path, "pretrain_mlp_swav", "--video=nothing.mp4")[0] == 1
    assert "nothing.mp4 is no file" in capsys.readouterr().err
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert draw(tmp_path, "pretrain_mlp_swav", f"--video={broken}")[0] == 1
    assert "broken.mp4" in capsys.readouterr().err
