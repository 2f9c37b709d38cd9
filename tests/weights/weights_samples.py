"""Small weights of every kind, from the goldens, for tests of formats."""

import functools
import json
from pathlib import Path

import numpy as np

from sigma_jax.weights.published import weights_of
from sigma_jax.weights.weights_file import Weights

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
NAMES = ("dino_vit", "dinov2_vit", "finetune_cls", "pretrain_mlp_swav", "pretrain_dino_swav", "pretrain_pixel_l2")


@functools.lru_cache
def golden(name: str) -> tuple[dict, dict, dict]:
    """(arrays under the authors' names, all arrays of the file, its config)."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        arrays = dict(file)
    params = {key.removeprefix("param:"): array for key, array in arrays.items() if key.startswith("param:")}
    return params, arrays, json.loads(str(arrays["config_json"]))


def heads_of(name: str) -> dict[str, int | None]:
    """The heads that no array tells."""
    config = golden(name)[2]
    return {"num_heads": config.get("heads") or config.get("eh"), "decoder_num_heads": config.get("dh")}


def sample(name: str) -> Weights:
    """A golden's parameters as our weights."""
    return weights_of(golden(name)[0], name, heads_of(name))
