"""Weights from and to our own checkpoints (Orbax run folders)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.checkpoints.manager import Checkpointer, find_checkpoint, read_meta, restore_subtree, saved_shapes
from sigma_jax.weights.inferred_sizes import agreed, infer_sizes
from sigma_jax.weights.weights_file import UnreadableWeights, Weights


def read_run(path: str | Path, given: dict[str, int | None]) -> Weights:
    """The parameters of a checkpoint: workdir, its checkpoints folder, or one step folder.

    Args:
      given: num_heads and decoder_num_heads, None for what the checkpoint says, or width / 64.

    Raises:
      CheckpointError, UnreadableWeights: no checkpoint, a damaged one, or none with parameters.
    """
    folder = find_checkpoint(path)
    saved = saved_shapes(folder)
    if "params" not in saved:
        raise UnreadableWeights(f"{folder} has no 'params', only {', '.join(saved)}: expected a training checkpoint")
    here = _everywhere() if jax.process_count() > 1 else jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), saved["params"])
    params = jax.tree.map(np.asarray, restore_subtree(folder, {"params": wanted})["params"])
    meta = read_meta(folder)
    if "weights" in meta:
        said = {name: tuple(v) if isinstance(v, list) else v for name, v in meta["weights"]["sizes"].items()}
        kind = meta["weights"]["kind"]
    else:
        kind, said = _from_config(params, meta, agreed(meta.get("heads", {}), given, str(folder)))
    agreed(said, given, str(folder))
    return Weights(kind, params, said, str(folder))


def _everywhere() -> jax.sharding.Sharding:
    """Whole on every device: what all processes can read together."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("all",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def _from_config(params: dict, meta: dict, counts: dict[str, int | None]) -> tuple[str, dict[str, Any]]:
    """Kind and sizes of a training checkpoint: arrays, completed by the config and the saved heads."""
    kind = "pretrain" if "decoder" in params else "classifier"
    model = meta["config"]["model"]
    inferred = infer_sizes(kind, params, tuple(model["tube_size"]), **counts)
    for name in ("num_frames", "image_size", "positions"):
        inferred[name] = tuple(model[name]) if isinstance(model[name], list) else model[name]
    return kind, inferred


def write_run(path: str | Path, weights: Weights) -> None:
    """A run folder with one checkpoint, step 0, of the parameters alone."""
    checkpoints = Checkpointer(Path(path) / "checkpoints", keep_last=1, save_every_steps=1)
    meta = {"weights": {"kind": weights.kind, "sizes": weights.sizes, "source": weights.source}}
    state = {"params": jax.tree.map(jnp.asarray, weights.params)}
    try:
        if not checkpoints.save(0, state, data_state={}, meta=meta, force=True):
            raise UnreadableWeights(f"{path} already holds a checkpoint of step 0: choose another folder")
    finally:
        checkpoints.close()
