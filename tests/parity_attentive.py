"""Parity of the attentive classifier with V-JEPA 2's public code: logits, loss, gradients, starting scales."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sigma_jax.models.attentive_classifier import AttentiveClassifier
from tests.parity import Row, compare


def from_public(arrays: dict, depth: int) -> dict:
    """Our parameters from the public names."""

    def dense(name):
        return {"kernel": arrays[f"{name}.weight"].T, "bias": arrays[f"{name}.bias"]}

    def norm(name):
        return {"scale": arrays[f"{name}.weight"], "bias": arrays[f"{name}.bias"]}

    def mlp(name):
        return {layer: dense(f"{name}.{layer}") for layer in ("fc1", "fc2")}

    def block(name):
        qkv = {"qkv": arrays[f"{name}.attn.qkv.weight"].T, "qkv_bias": arrays[f"{name}.attn.qkv.bias"]}
        attention = qkv | {"proj": dense(f"{name}.attn.proj")}
        norms = {part: norm(f"{name}.{part}") for part in ("norm1", "norm2")}
        return {"attn": attention, "mlp": mlp(f"{name}.mlp")} | norms

    cross = "pooler.cross_attention_block"
    params = {
        "query": arrays["pooler.query_tokens"],
        "norm1": norm(f"{cross}.norm1"),
        "norm2": norm(f"{cross}.norm2"),
        "q": dense(f"{cross}.xattn.q"),
        "kv": dense(f"{cross}.xattn.kv"),
        "mlp": mlp(f"{cross}.mlp"),
        "linear": dense("linear"),
    }
    blocks = [block(f"pooler.blocks.{i}") for i in range(depth - 1)]
    return params | ({"blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)} if blocks else {})


def rows(arrays: dict) -> list[Row]:
    config = dict(part.split("=") for part in str(arrays["config"]).split())
    depth, width = int(config["depth"]), int(config["embed_dim"])
    model = AttentiveClassifier(int(config["classes"]), int(config["num_heads"]), depth)

    def group(prefix):
        found = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        return from_public(found, depth)

    def loss(params):
        logits = model.apply({"params": params}, jnp.asarray(arrays["tokens"]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(arrays["labels"])).mean(), logits

    (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(group("param/"))
    out = [compare("logits", logits, arrays["logits"], 1e-5), compare("loss", value, arrays["loss"], 1e-5)]
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(group("grad/")), strict=True
    ):
        out.append(compare(f"gradient {jax.tree_util.keystr(path)}", ours, theirs, 1e-5))
    started = jax.device_get(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 16 * width)))["params"])
    names = arrays["init_names"].tolist()
    ours = [_start(started, name) for name in names]
    # Standard deviations of samples of different sizes: they agree to a tenth.
    return out + [
        compare("starting scales, ratio", ours / arrays["init_std_of_rescaled"][:, 0], np.ones(len(names)), 0.1)
    ]


def _start(params: dict, name: str) -> float:
    """Standard deviation that a rescaled kernel starts with."""
    if ".blocks." not in name:
        return float(np.std(params["mlp"]["fc2"]["kernel"]))
    number, part, layer = name.split(".blocks.")[1].split(".")[:3]
    return float(np.std(params["blocks"][part][layer]["kernel"][int(number)]))
