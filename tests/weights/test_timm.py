"""Teachers in timm's layout against timm's own outputs, both directions; random weights of small sizes."""

import jax
import numpy as np
import pytest

from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD
from sigma_jax.tools.convert import main
from sigma_jax.weights.formats import read_weights, write_weights
from sigma_jax.weights.frozen import load
from sigma_jax.weights.pth import read_pth, write_pth

TOLERANCE = 2e-5
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}
CASES = {
    "vit_small_patch16_224.dino": 64,
    "vit_base_patch8_224.dino": 32,
    "vit_small_patch14_dinov2.lvd142m": 56,
    "vit_base_patch14_dinov2.lvd142m": 56,
    "vit_large_patch14_reg4_dinov2.lvd142m": 56,
}


@pytest.fixture(scope="module")
def timm(torch):
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm does not import: {error}")
    return timm


def model_of(torch, timm, name: str, size: int):
    """A random model: biases, norms, tokens and layer scale too, so that a forgotten one shows."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, img_size=size, **SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * (0.05 if parameter.ndim > 1 else 0.2))
    return model


def theirs(torch, model, pixels: np.ndarray) -> np.ndarray:
    """All tokens after the final norm."""
    standardized = np.moveaxis((pixels - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD), -1, 1)
    with torch.no_grad():
        return model.forward_features(torch.from_numpy(np.ascontiguousarray(standardized))).numpy()


@pytest.mark.parametrize("name", CASES)
def test_teachers_of_timm_compute_the_same_both_ways(tmp_path, torch, timm, name, capsys):
    size = CASES[name]
    model = model_of(torch, timm, name, size)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    assert main([str(tmp_path / "timm.pth"), str(tmp_path / "ours.npz"), "--num_heads=3"]) == 0
    assert "(100.0 %)" in capsys.readouterr().out
    pixels = np.random.default_rng(0).random((2, size, size, 3), dtype=np.float32)
    expected = theirs(torch, model, pixels)
    ours = load(tmp_path / "ours.npz")
    assert ours.weights.sizes["num_registers"] == (4 if "reg4" in name else 0)
    with jax.default_matmul_precision("highest"):
        tokens = jax.jit(ours.module.apply)({"params": ours.params}, pixels)
    np.testing.assert_allclose(tokens, expected, atol=TOLERANCE, rtol=0)

    assert main([str(tmp_path / "ours.npz"), str(tmp_path / "back.pth")]) == 0
    back = read_pth(tmp_path / "back.pth")["model"]
    assert all(np.asarray(back[key]).tobytes() == value.numpy().tobytes() for key, value in model.state_dict().items())
    other = timm.create_model(name, pretrained=False, img_size=size, **SMALL).eval()
    loaded = other.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True)["model"], strict=True)
    assert not loaded.missing_keys and not loaded.unexpected_keys
    np.testing.assert_array_equal(theirs(torch, other, pixels), expected)


def test_registers_as_published_on_torch_hub_compute_the_same_in_timm(tmp_path, torch, timm):
    """The hub's table has a row for cls and registers of their own name; timm has neither."""
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    arrays = {key: value.numpy() for key, value in model_of(torch, timm, name, 56).state_dict().items()}
    row = np.random.default_rng(0).standard_normal((1, 1, 48), dtype=np.float32)
    hub = dict(arrays, pos_embed=np.concatenate([row, arrays["pos_embed"]], 1))
    hub["register_tokens"] = hub.pop("reg_token")
    write_pth(tmp_path / "hub.pth", hub)
    write_weights(tmp_path / "timm.pth", read_weights(tmp_path / "hub.pth", num_heads=3), "pth")
    model = timm.create_model(name, pretrained=False, img_size=56, **SMALL).eval()
    model.load_state_dict(torch.load(tmp_path / "timm.pth", weights_only=True)["model"], strict=True)
    pixels = np.random.default_rng(1).random((1, 56, 56, 3), dtype=np.float32)
    ours = load(tmp_path / "hub.pth", num_heads=3)
    with jax.default_matmul_precision("highest"):
        tokens = jax.jit(ours.module.apply)({"params": ours.params}, pixels)
    np.testing.assert_allclose(tokens, theirs(torch, model, pixels), atol=TOLERANCE, rtol=0)
