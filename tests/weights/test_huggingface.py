"""Hugging Face folders against transformers' own outputs, both directions; random weights of small sizes."""

import json

import jax
import numpy as np
import pytest

from sigma_jax.ops.masking import indices_of
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD
from sigma_jax.weights import huggingface
from sigma_jax.weights.formats import read_weights, write_weights
from sigma_jax.weights.frozen import load
from sigma_jax.weights.weights_file import UnreadableWeights, WeightsMismatch
from tests.weights.weights_samples import golden, sample

TOLERANCE = 2e-5
VIDEO = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 128,
}
IMAGE = {"image_size": 56, "patch_size": 14, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
CASES = {
    "VideoMAEForPreTraining": ("VideoMAEConfig", VIDEO | {"use_mean_pooling": False}),
    "VideoMAEForPreTraining without final norm": ("VideoMAEConfig", VIDEO),  # what a default config makes
    "VideoMAEForVideoClassification": ("VideoMAEConfig", VIDEO | {"num_labels": 5}),
    "VideoMAEForVideoClassification of the first token": (  # what videomae-base's config makes
        "VideoMAEConfig",
        VIDEO | {"use_mean_pooling": False, "id2label": {0: "walk", 1: "run", 2: "jump"}},
    ),
    "VideoMAEModel": ("VideoMAEConfig", VIDEO | {"use_mean_pooling": False}),
    "Dinov2Model": ("Dinov2Config", IMAGE),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", IMAGE),
}


@pytest.fixture(scope="module")
def torch(torch):
    pytest.importorskip("transformers")
    return torch


def model_of(torch, name: str):
    """A random model: biases, norms and tokens too, so that a forgotten one shows."""
    import transformers

    config_name, values = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, name.split()[0])(getattr(transformers, config_name)(**values)).eval()
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            wide = parameter.ndim > 1
            parameter.add_(torch.randn(parameter.shape) * (0.05 if wide else 0.2))
    return model


def inputs_of(name: str, size: int) -> np.ndarray:
    """Pixels in [0, 1]: clips [2 F s s 3] or images [2 s s 3]."""
    shape = (2, 4, size, size, 3) if name.startswith("Video") else (2, size, size, 3)
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def standardized(torch, pixels: np.ndarray):
    """What Hugging Face's preprocessor hands to its models, channels before rows."""
    return torch.from_numpy(np.moveaxis((pixels - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD), -1, -3))


MASK = np.tile(np.arange(32) % 4 != 0, (2, 1))  # 32 tubes


def theirs(torch, model, name: str, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        if name.startswith("VideoMAEForPreTraining"):
            return model(standardized(torch, pixels), bool_masked_pos=torch.from_numpy(MASK)).logits.numpy()
        out = model(standardized(torch, pixels))
        return (out.logits if "Classification" in name else out.last_hidden_state).numpy()


def ours(path, name: str, pixels: np.ndarray) -> np.ndarray:
    model = load(path)
    with jax.default_matmul_precision("highest"):
        inputs = indices_of(MASK) if name.startswith("VideoMAEForPreTraining") else ()
        return np.asarray(jax.jit(model.module.apply)({"params": model.params}, pixels, *inputs))


@pytest.mark.parametrize("name", CASES)
def test_a_folder_of_transformers_computes_the_same_here(tmp_path, torch, name):
    model = model_of(torch, name)
    model.save_pretrained(tmp_path)
    for size in (CASES[name][1]["image_size"],) + ((84,) if name.startswith("Dino") else ()):  # 84: table resized
        pixels = inputs_of(name, size)
        expected = theirs(torch, model, name, pixels)
        np.testing.assert_allclose(ours(tmp_path, name, pixels), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_transformers_computes_the_same_with_our_folder(tmp_path, torch, name):
    import transformers

    model_of(torch, name).save_pretrained(tmp_path / "first")
    weights = read_weights(tmp_path / "first")
    write_weights(tmp_path / "ours", weights, "hf")
    model, info = getattr(transformers, name.split()[0]).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert set(info["missing_keys"]) <= {"embeddings.mask_token"}  # used in DINOv2's training only
    pixels = inputs_of(name, CASES[name][1]["image_size"])
    expected = theirs(torch, model.eval(), name, pixels)
    np.testing.assert_allclose(ours(tmp_path / "first", name, pixels), expected, atol=TOLERANCE, rtol=0)
    again = read_weights(tmp_path / "ours")
    assert again.digest() == weights.digest() and again.sizes == weights.sizes
    if "first" in name:
        assert model.config.id2label == {0: "walk", 1: "run", 2: "jump"} and again.sizes["pooling"] == "first"


def test_sigma_hands_its_encoder_over_and_says_what_stays(tmp_path, torch):
    import transformers

    weights = sample("pretrain_mlp_swav")
    weights.sizes.update(image_size=golden("pretrain_mlp_swav")[2]["img"])
    notes = write_weights(tmp_path, weights, "hf")
    assert notes == [
        "written as VideoMAEModel, without decoder, projection, prototypes: VideoMAEForPreTraining predicts pixels only"
    ]
    model, info = transformers.VideoMAEModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("unexpected_keys", "mismatched_keys", "missing_keys"))
    pixels = np.random.default_rng(0).random((1, 16, 32, 32, 3), dtype=np.float32)
    expected = theirs(torch, model.eval(), "VideoMAEModel", pixels)
    np.testing.assert_allclose(ours(tmp_path, "VideoMAEModel", pixels), expected, atol=TOLERANCE, rtol=0)


def folder_of(tmp_path, shards: int = 1, cast=None):
    """Our classifier golden as a folder, in shards with an index, without transformers."""
    from safetensors.numpy import save_file

    write_weights(tmp_path, sample("finetune_cls"), "hf")
    if shards == 1 and cast is None:
        return tmp_path
    arrays = {k: np.asarray(v, cast or v.dtype) for k, v in huggingface.read_arrays(tmp_path)[0].items()}
    (tmp_path / huggingface.WEIGHTS).unlink()
    names, index = sorted(arrays), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: arrays[name] for name in names[i::shards]}, tmp_path / file)
        index |= dict.fromkeys(names[i::shards], file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return tmp_path


def test_shards_with_an_index(tmp_path):
    folder = folder_of(tmp_path, shards=3)
    assert read_weights(folder).digest() == sample("finetune_cls").digest()
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UnreadableWeights, match=r"names shards that are not there: model-00002-of-00003"):
        read_weights(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read_as_float32_and_said(tmp_path, dtype):
    import ml_dtypes

    cast = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[dtype]
    weights = read_weights(folder_of(tmp_path, cast=cast))
    kernel = sample("finetune_cls").params["head"]["kernel"]
    np.testing.assert_array_equal(weights.params["head"]["kernel"], kernel.astype(cast).astype(np.float32))
    assert weights.notes[0] == f"stored as {dtype}, read as float32"


@pytest.mark.parametrize("style", ["query.bias", "q_proj"])
def test_names_of_other_versions_of_transformers(style):
    """Version 5 names in memory: VideoMAE's query.bias for q_bias, Dinov2's q_proj for attention.query."""
    from sigma_jax.weights.huggingface_names import DINOV2, VIDEOMAE, from_authors, to_authors

    name = "finetune_cls" if style == "query.bias" else "dinov2_vit"
    table = VIDEOMAE if style == "query.bias" else DINOV2
    authors = golden(name)[0]
    arrays = from_authors(authors, table, sample(name).kind)
    new = {}
    for key, array in arrays.items():
        key = key.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias")
        if style == "q_proj":
            for old, short in (("query", "q"), ("key", "k"), ("value", "v")):
                key = key.replace(f"attention.attention.{old}", f"attention.{short}_proj")
            key = key.replace("attention.output.dense", "attention.o_proj")
        new[key] = array
    assert new.keys() != arrays.keys()
    back = to_authors(new, table)
    assert back.keys() == authors.keys()
    assert all(np.array_equal(back[key], authors[key]) for key in authors)


def test_bad_folders_are_named(tmp_path):
    folder = folder_of(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    whole = (folder / huggingface.WEIGHTS).read_bytes()

    def refused(message: str, error=UnreadableWeights):
        with pytest.raises(error, match=message):
            read_weights(folder)

    (folder / huggingface.WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(r"model\.safetensors is truncated")
    (folder / huggingface.WEIGHTS).write_bytes(whole)
    for change, message in (
        ({"model_type": "bert"}, r"config\.json: model_type 'bert', expected one of videomae"),
        ({"hidden_act": "relu"}, r"config\.json: hidden_act='relu' is not supported"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        refused(message)
    (folder / "config.json").write_text("{")
    refused(r"config\.json is no JSON")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / huggingface.WEIGHTS).unlink()
    refused(r"has none of model\.safetensors, .*pytorch_model\.bin.* \(found: config\.json\)")


def test_unknown_and_incomplete_keys_are_named_as_in_the_file(tmp_path):
    from safetensors.numpy import save_file

    folder = folder_of(tmp_path)
    arrays = {name: np.asarray(array) for name, array in huggingface.read_arrays(folder)[0].items()}
    arrays["videomae.encoder.layer.1.attention.attention.keys.weight"] = arrays.pop(
        "videomae.encoder.layer.1.attention.attention.key.weight"
    )
    save_file(arrays, folder / huggingface.WEIGHTS)
    with pytest.raises(WeightsMismatch, match=r"blocks\.1\.attn\.qkv\.weight: expected query, key and value"):
        read_weights(folder)
    arrays["videomae.encoder.layer.1.attention.attention.key.weight"] = np.zeros((48, 48), np.float32)
    save_file(arrays, folder / huggingface.WEIGHTS)
    with pytest.raises(WeightsMismatch, match=r"does not have: videomae\.encoder\.layer\.1\.attention.*keys\.weight"):
        read_weights(folder)


def test_dino_without_layer_scale_has_no_class(tmp_path):
    with pytest.raises(UnreadableWeights, match=r"Write it with --to=pth"):
        write_weights(tmp_path / "x", sample("dino_vit"), "hf")
