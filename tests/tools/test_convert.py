"""The convert command as typed, on the goldens as .pth files: the converted model computes what PyTorch computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.checkpoints import storage
from sigma_jax.models.dino import tube_features
from sigma_jax.ops.masking import indices_of
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD
from sigma_jax.tools.convert import main
from sigma_jax.weights.frozen import load
from sigma_jax.weights.pth import read_pth, write_pth
from tests.weights.weights_samples import NAMES, golden, heads_of

TOLERANCE = 2e-5


def pixels(array: np.ndarray) -> jax.Array:
    """A golden's normalised input, channels second -> pixels in [0, 1], channels last."""
    return jnp.asarray(np.moveaxis(array, 1, -1) * np.float32(PIXEL_STD) + np.float32(PIXEL_MEAN))


def outputs(model, name: str) -> tuple[jax.Array, np.ndarray]:
    """(ours, PyTorch's) of a golden."""
    _, arrays, config = golden(name)
    apply = jax.jit(model.module.apply)
    variables = {"params": model.params}
    if name.startswith("dino"):
        tokens = apply(variables, pixels(arrays["image"]))
        side = 14 if name.startswith("dinov2") else config["img"] // config["patch"]
        return tube_features(tokens, model.module.size, (side, side)), arrays["features"]
    video = pixels(arrays["video"])
    if name == "finetune_cls":
        return apply(variables, video), arrays["logits"]
    visible, masked = indices_of(jnp.asarray(arrays["mask"]))
    return apply(variables, video, visible, masked), arrays["x"]


@pytest.mark.parametrize("name", NAMES)
def test_goldens_pass_through_convert(tmp_path, name, capsys):
    params, _, config = golden(name)
    write_pth(tmp_path / "authors.pth", params)
    heads = [f"--{flag}={count}" for flag, count in heads_of(name).items() if count]
    clip = [] if name.startswith("dino") else [f"--image_size={config['img']}", "--num_frames=16"]
    assert main([str(tmp_path / "authors.pth"), str(tmp_path / "ours.npz"), *heads, *clip]) == 0
    assert "(100.0 %)" in capsys.readouterr().out
    with jax.default_matmul_precision("highest"):
        ours, theirs = outputs(load(tmp_path / "ours.npz"), name)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)
    assert main([str(tmp_path / "ours.npz"), str(tmp_path / "back.pth")]) == 0
    back = read_pth(tmp_path / "back.pth")["model"]
    assert back.keys() == params.keys()
    assert all(np.asarray(back[key]).tobytes() == params[key].tobytes() for key in params)


def test_wrong_usage_and_bad_files_say_what_to_do(tmp_path, capsys):
    (tmp_path / "page.pth").write_text("<html>sign in</html>")
    assert main([str(tmp_path / "page.pth"), str(tmp_path / "out.npz")]) == 1
    assert "page.pth is a web page" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "page.pth"), str(tmp_path / "folder")])
    assert "add --to=hf or --to=orbax" in capsys.readouterr().err


def test_into_a_run_folder_and_out_again(tmp_path, capsys, monkeypatch):
    write_pth(tmp_path / "w.pth", golden("finetune_cls")[0])
    with monkeypatch.context() as full:
        full.setattr(storage, "free_bytes", lambda folder: 1000)
        assert main([str(tmp_path / "w.pth"), str(tmp_path / "run"), "--to=orbax", "--num_heads=3"]) == 1
    assert "is not saved (NotWritable: no room in" in capsys.readouterr().err.splitlines()[-1]
    assert main([str(tmp_path / "w.pth"), str(tmp_path / "run"), "--to=orbax", "--num_heads=3"]) == 0
    assert main([str(tmp_path / "w.pth"), str(tmp_path / "run"), "--to=orbax", "--num_heads=3"]) == 1
    assert "already holds a checkpoint of step 0" in capsys.readouterr().err
    assert main([str(tmp_path / "run"), str(tmp_path / "back.pth")]) == 0
    back = read_pth(tmp_path / "back.pth")["model"]
    assert all(np.array_equal(back[key], array) for key, array in golden("finetune_cls")[0].items())


def test_clip_size_is_asked_for_where_the_file_says_it(tmp_path, capsys):
    write_pth(tmp_path / "w.pth", golden("finetune_cls")[0])
    assert main([str(tmp_path / "w.pth"), str(tmp_path / "w.npz"), "--num_heads=3", "--image_size=32"]) == 0
    assert main([str(tmp_path / "w.npz"), str(tmp_path / "x.npz"), "--image_size=64"]) == 1
    assert "--image_size is for video files that do not say it" in capsys.readouterr().err
