"""Every format there and back, and every bad file of a list: the message names file and key."""

import json

import jax
import numpy as np
import pytest

from sigma_jax.weights import huggingface
from sigma_jax.weights.formats import detect_format, read_weights, write_weights
from sigma_jax.weights.frozen import check
from sigma_jax.weights.pth import write_pth
from sigma_jax.weights.published import weights_of
from sigma_jax.weights.weights_file import METADATA, UnreadableWeights, Weights, WeightsMismatch, write_npz
from tests.weights.test_pth import text, with_company
from tests.weights.weights_samples import NAMES, golden, heads_of, sample

PLACES = {"npz": "w.npz", "pth": "w.pth", "hf": "folder", "orbax": "run"}


def assert_same(a: Weights, b: Weights) -> None:
    assert a.kind == b.kind
    assert jax.tree.all(jax.tree.map(lambda x, y: x.tobytes() == np.ascontiguousarray(y).tobytes(), a.params, b.params))
    assert {**a.sizes, "num_frames": 0, "image_size": 0} == {**b.sizes, "num_frames": 0, "image_size": 0}


CASES = [(name, form) for name in NAMES for form in ("npz", "pth")]
CASES += [("finetune_cls", "hf"), ("pretrain_pixel_l2", "hf"), ("finetune_cls", "orbax"), ("dino_vit", "orbax")]


@pytest.mark.parametrize("name,form", CASES)
def test_round_trips_are_bit_equal(tmp_path, name, form):
    weights = sample(name)
    path = tmp_path / PLACES[form]
    assert write_weights(path, weights, form) == []
    assert detect_format(path) == form
    back = read_weights(path, **(heads_of(name) if form == "pth" else {}))
    assert_same(weights, back)
    assert weights.digest() == back.digest()


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
@pytest.mark.parametrize("prefix", ["module.", "", "backbone."])
def test_wrappers_and_prefixes_of_published_files(tmp_path, wrapper, prefix):
    arrays = {prefix + name: array for name, array in golden("finetune_cls")[0].items()}
    write_pth(tmp_path / "w.pth", arrays, key=wrapper or "model")
    read = read_weights(tmp_path / "w.pth", **heads_of("finetune_cls"))
    assert_same(sample("finetune_cls"), read)


def test_an_encoder_alone_with_or_without_its_prefix(tmp_path):
    arrays = {k: v for k, v in golden("pretrain_pixel_l2")[0].items() if k.startswith("encoder.")}
    for i, prefix in enumerate(("encoder.", "")):
        write_pth(tmp_path / f"{i}.pth", {prefix + k.removeprefix("encoder."): v for k, v in arrays.items()})
        read = read_weights(tmp_path / f"{i}.pth", num_heads=3)
        assert read.kind == "encoder" and read.sizes["final_norm"] and check(read).fraction == 1


def test_dinov2_as_published_on_torch_hub(tmp_path):
    """Registers and blocks under their hub names, a cls row in the table, a mask token that only training uses."""
    arrays = dict(golden("dinov2_vit")[0])
    arrays["register_tokens"] = arrays.pop("reg_token")
    arrays["pos_embed"] = np.concatenate([np.full((1, 1, 24), 0.5, np.float32), arrays["pos_embed"]], axis=1)
    arrays["mask_token"] = np.zeros((1, 24), np.float32)
    arrays = {
        k.replace("blocks.1.", "blocks.0.1.").replace("blocks.0.norm", "blocks.0.0.norm"): v for k, v in arrays.items()
    }
    write_pth(tmp_path / "hub.pth", arrays)
    read = read_weights(tmp_path / "hub.pth", num_heads=3)
    assert read.sizes["cls_position"] and read.sizes["num_registers"] == 4 and read.sizes["position_grid"] == (16, 16)
    assert read.notes == ("mask_token left out: used in DINOv2's training only",)
    assert check(read).fraction == 1
    write_weights(tmp_path / "timm.pth", read, "pth")  # timm has no row for cls: its sum with cls is the same
    timm = read_weights(tmp_path / "timm.pth", num_heads=3)
    assert not timm.sizes["cls_position"]
    np.testing.assert_array_equal(timm.params["cls"], read.params["cls"] + np.float32(0.5))


def test_a_dino_training_checkpoint_holds_the_teacher_under_its_name(tmp_path):
    arrays = {f"module.backbone.{k}": v for k, v in golden("dino_vit")[0].items()}
    arrays["module.head.last_layer.weight"] = np.zeros((5, 4), np.float32)
    write_pth(tmp_path / "full.pth", arrays, key="teacher")
    assert_same(sample("dino_vit"), read_weights(tmp_path / "full.pth", num_heads=3))


def test_half_precision_is_read_as_float32_and_said(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = golden("finetune_cls")[0]
    for dtype in (torch.float16, torch.bfloat16):
        state = {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}
        torch.save({"model": state}, tmp_path / "half.pth")
        read = read_weights(tmp_path / "half.pth", num_heads=3)
        np.testing.assert_array_equal(read.params["head"]["kernel"], state["head.weight"].float().numpy().T)
        assert "read as float32" in read.notes[0]


def test_heads_follow_the_width_or_are_asked_for(tmp_path):
    write_pth(tmp_path / "w.pth", golden("finetune_cls")[0])
    with pytest.raises(WeightsMismatch, match=r"w\.pth does not say .*width 48 is no multiple of 64: give num_heads"):
        check(read_weights(tmp_path / "w.pth"))
    with pytest.raises(WeightsMismatch, match=r"w\.pth: num_heads=5 does not divide the width 48"):
        read_weights(tmp_path / "w.pth", num_heads=5)
    write_npz(tmp_path / "w.npz", sample("finetune_cls"))
    with pytest.raises(WeightsMismatch, match=r"w\.npz.* was made with num_heads=3, not 4"):
        read_weights(tmp_path / "w.npz", num_heads=4)


def with_renamed(arrays):
    arrays["blocks.1.attn.proj.weights"] = arrays.pop("blocks.1.attn.proj.weight")


def without_head(arrays):
    del arrays["head.weight"], arrays["head.bias"]


def with_narrow_mlp(arrays):
    arrays["blocks.1.mlp.fc1.bias"] = arrays["blocks.1.mlp.fc1.bias"][:-1]


def with_transposed(arrays):
    arrays["blocks.0.mlp.fc1.weight"] = arrays["blocks.0.mlp.fc1.weight"].T
    arrays["blocks.1.mlp.fc1.weight"] = arrays["blocks.1.mlp.fc1.weight"].T


def with_wide_head(arrays):
    arrays["head.weight"] = np.zeros((11, 64), np.float32)


def without_embedding(arrays):
    del arrays["patch_embed.proj.weight"]


def with_flat_matrix(arrays):
    arrays["head.weight"] = arrays["head.weight"].ravel()


def with_integers(arrays):
    arrays["blocks.1.mlp.fc1.weight"] = np.ones((192, 48), np.int8)


BAD_ARRAYS = {
    with_renamed: r"does not have: blocks\.1\.attn\.proj\.weights\s+blocks\.1\.attn\.proj\.weight is missing",
    without_head: r"head/kernel is missing",
    with_narrow_mlp: r"blocks\.1\.mlp\.fc1\.bias has another shape than in block 0",
    with_transposed: r"encoder/blocks/mlp/fc1/kernel .*file \(2, 192, 48\), model \(2, 48, 192\)",
    with_wide_head: r"head/kernel \(head\.weight\): file \(64, 11\), model \(48, 11\)",
    without_embedding: r"patch_embed\.proj\.weight is missing",
    with_integers: r"blocks\.1\.mlp\.fc1\.weight is of int8: quantised weights are not read",
    with_flat_matrix: r"head\.weight has shape \(528,\)",
}


@pytest.mark.parametrize("change", BAD_ARRAYS, ids=lambda f: f.__name__)
def test_wrong_arrays_are_named(tmp_path, change):
    arrays = dict(golden("finetune_cls")[0])
    change(arrays)
    with pytest.raises(WeightsMismatch, match=BAD_ARRAYS[change]) as caught:
        check(weights_of(arrays, "bad.pth", {"num_heads": 3}))
    assert "bad.pth" in str(caught.value)


def test_files_that_are_no_weights(tmp_path):
    def refused(content: bytes | None, message: str, error=UnreadableWeights, name: str = "file.pth"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=message):
            read_weights(tmp_path / name)

    refused(b"<!DOCTYPE html><html>quota exceeded</html>", r"file\.pth is a web page.*quota exceeded")
    refused(b"", r"file\.pth is empty")
    refused(b"hello world", r"file\.pth is unknown \(it begins with b'hello wo'\)")
    refused(b"version https://git-lfs.github.com/spec/v1\noid", r"file\.pth is a pointer of Git LFS")
    refused(b"PK\x03\x04 and no end", r"file\.pth is truncated")
    (tmp_path / "nothing").mkdir()
    refused(None, r"nothing is an empty folder", name="nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("hello")
    refused(None, r"other holds neither a checkpoint .*notes\.txt", name="other")
    refused(None, r"no weights at .*absent", FileNotFoundError, "absent")


def test_an_optimizer_alone_is_no_weights(tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(2, 2)
    torch.save(torch.optim.SGD(layer.parameters(), 0.1).state_dict(), tmp_path / "o.pth")
    with pytest.raises(WeightsMismatch, match=r"o\.pth holds the state of an optimizer and no weights"):
        read_weights(tmp_path / "o.pth")


def test_our_file_says_when_it_was_damaged_or_is_not_ours(tmp_path):
    path = tmp_path / "w.npz"
    weights = sample("finetune_cls")
    write_npz(path, weights)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["head/bias"] = arrays["head/bias"] + 1
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(UnreadableWeights, match=r"changed\.npz is damaged: content"):
        read_weights(tmp_path / "changed.npz")
    del arrays[METADATA]
    np.savez(tmp_path / "plain.npz", **arrays)
    with pytest.raises(UnreadableWeights, match=r"plain\.npz has no __metadata__ entry"):
        read_weights(tmp_path / "plain.npz")
    whole = path.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableWeights, match=r"cut\.npz is truncated"):
        read_weights(tmp_path / "cut.npz")
    (tmp_path / "flip.npz").write_bytes(whole[:4000] + bytes([whole[4000] ^ 1]) + whole[4001:])
    with pytest.raises(UnreadableWeights, match=r"flip\.npz is damaged"):
        read_weights(tmp_path / "flip.npz")


def test_positions_that_the_authors_code_lacks_are_not_exported(tmp_path):
    weights = sample("pretrain_pixel_l2")
    weights = Weights(weights.kind, weights.params, weights.sizes | {"positions": "sincos_3d"}, "run")
    for form in ("pth", "hf"):
        with pytest.raises(ValueError, match="sincos_3d"):
            write_weights(tmp_path / "out.pth", weights, form)


def test_sizes_survive_as_they_were(tmp_path):
    weights = sample("pretrain_mlp_swav")
    write_npz(tmp_path / "w.npz", weights)
    assert read_weights(tmp_path / "w.npz").sizes == weights.sizes
    with np.load(tmp_path / "w.npz") as file:
        metadata = json.loads(str(file[METADATA]))
    assert metadata["kind"] == "pretrain" and metadata["digest"] == weights.digest()


def with_swiglu(arrays):
    return arrays | {"blocks.0.mlp.w12.weight": np.zeros((8, 48), np.float32)}


def with_rotary_positions(arrays):
    return {k: v for k, v in arrays.items() if k != "pos_embed"} | {"rope_embed.periods": np.zeros(6, np.float32)}


def with_a_bias_for_keys(arrays):
    biases = {f"blocks.{i}.attn.qkv.bias": np.zeros(144, np.float32) for i in range(2)}
    kept = {k: v for k, v in arrays.items() if not k.endswith(("q_bias", "v_bias")) and not k.startswith("head")}
    return {k.replace("fc_norm", "norm"): v for k, v in kept.items()} | biases


def of_width_1408(arrays):
    return arrays | {"patch_embed.proj.weight": np.zeros((1408, 3, 2, 14, 14), np.float32)}


FOREIGN = {
    with_swiglu: ("dinov2_vit", "is a ViT-g of DINOv2"),
    with_rotary_positions: ("dino_vit", "is DINOv3, with rotary positions"),
    with_a_bias_for_keys: ("finetune_cls", "is a video transformer like V-JEPA"),
    of_width_1408: ("finetune_cls", "is a ViT-g of VideoMAE V2"),
}


@pytest.mark.parametrize("change", FOREIGN, ids=lambda f: f.__name__)
def test_relatives_are_refused_by_naming_what_they_are(tmp_path, change):
    name, message = FOREIGN[change]
    write_pth(tmp_path / "w.pth", change(golden(name)[0]))
    with pytest.raises(WeightsMismatch, match=rf"w\.pth {message}.*expected SIGMA, VideoMAE, DINO or DINOv2"):
        read_weights(tmp_path / "w.pth", num_heads=3)


def test_v_jepa_is_refused_by_its_wrappers(tmp_path):
    with_company(tmp_path / "w.pth", b"}" + text("a") + b"}s", key="encoder", first="target_encoder")
    with pytest.raises(WeightsMismatch, match=r"w\.pth is V-JEPA"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "change,message",
    [
        ({"model_type": "vjepa2"}, r"config\.json is V-JEPA"),
        ({"model_type": "dinov3_vit"}, r"config\.json is DINOv3"),
        ({"use_swiglu_ffn": True}, r"config\.json is a ViT-g of DINOv2"),
        ({"layer_norm_eps": 1e-3}, r"config\.json: layer_norm_eps is 0\.001"),
    ],
)
def test_folders_of_relatives_are_refused_by_naming_what_they_are(tmp_path, change, message):
    write_weights(tmp_path, sample("finetune_cls"), "hf")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path)


def test_other_pixel_statistics_are_refused(tmp_path):
    write_weights(tmp_path, sample("finetune_cls"), "hf")
    for mean, is_fine in (([0.485, 0.456, 0.406], True), ([0.5, 0.5, 0.5], False)):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean}))
        if is_fine:
            read_weights(tmp_path)
        else:
            with pytest.raises(UnreadableWeights, match=r"image_mean is \[0\.5, 0\.5, 0\.5\]"):
                read_weights(tmp_path)


@pytest.mark.parametrize("has_config", [True, False])
def test_pytorch_model_bin_of_hugging_face(tmp_path, has_config):
    write_weights(tmp_path, sample("finetune_cls"), "hf")
    arrays, _ = huggingface.read_arrays(tmp_path)
    write_pth(tmp_path / "pytorch_model.bin", {name: np.asarray(array) for name, array in arrays.items()})
    (tmp_path / "model.safetensors").unlink()
    if has_config:
        assert read_weights(tmp_path).digest() == sample("finetune_cls").digest()
    else:
        (tmp_path / "config.json").unlink()
    weights = read_weights(tmp_path / "pytorch_model.bin", num_heads=None if has_config else 3)
    assert weights.digest() == sample("finetune_cls").digest()
    assert ("no config.json beside it" in weights.notes[0]) if not has_config else not weights.notes
