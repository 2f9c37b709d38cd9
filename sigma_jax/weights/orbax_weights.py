"""Reading and writing weights as our own checkpoints (Orbax run folders)."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sigma_jax.checkpoints.manager import Checkpointer, find_checkpoint, read_meta, restore_subtree, saved_shapes
from sigma_jax.weights.facts import agreed, complete, sizes_of, with_facts_of_arrays
from sigma_jax.weights.weights_file import UnreadableWeights, Weights, from_json


def read_run(path: str | Path, given: Mapping[str, int | None], which: str = "model") -> Weights:
    """Reads the parameters of a checkpoint.

    Args:
      path: a workdir, its checkpoints folder, or one step folder.
      given: num_heads and decoder_num_heads; None for those of the checkpoint, or width / 64.
      which: 'model', or 'ema' for the averaged parameters of a run with `optim.ema_decay`.

    Raises:
      CheckpointError, UnreadableWeights: no checkpoint, a damaged one, or none with parameters.
    """
    folder = find_checkpoint(path)
    saved = saved_shapes(folder)
    if "params" not in saved:
        raise UnreadableWeights(f"{folder} has no 'params', only {', '.join(saved)}: expected a training checkpoint")
    optimizer = saved.get("opt_state")
    averaged = optimizer.get("mean") if isinstance(optimizer, Mapping) else None
    if which == "ema" and averaged is None:
        raise UnreadableWeights(f"{folder} holds no averaged weights: its run had no optim.ema_decay")
    shapes = saved["params"] if which == "model" else averaged
    here = _everywhere() if jax.process_count() > 1 else jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    if which == "model":
        params = restore_subtree(folder, {"params": wanted})["params"]
    else:
        params = restore_subtree(folder, {"opt_state": {"mean": wanted}})["opt_state"]["mean"]
    params = jax.tree.map(np.asarray, params)
    notes = ("the run also keeps averaged weights: --weights=ema takes them",) * (averaged is not None)
    return _with_facts(params, read_meta(folder), given, str(folder), notes if which == "model" else ())


def _everywhere() -> jax.sharding.Sharding:
    """The sharding of arrays that are replicated on the devices of all processes."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("all",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def _with_facts(
    params: dict, meta: dict, given: Mapping[str, int | None], source: str, notes: tuple[str, ...]
) -> Weights:
    """Adds kind and facts: those in the config of a training run, or those that were stored with converted weights."""
    if "weights" in meta:
        kind, said = meta["weights"]["kind"], from_json(meta["weights"]["sizes"])
        agreed(said, given, source)
        return Weights(
            kind, params, with_facts_of_arrays(params, said), source, notes, tuple(meta["weights"].get("assumed", ()))
        )
    config = meta["config"]
    model, data = from_json(config["model"]), config.get("data", {})
    recorded = {name: model.get(name) for name in ("positions", "pooling", "num_frames", "image_size")}
    recorded |= {name: data.get(name) for name in ("frame_stride", "sampling", "label_hash")}
    recorded["normalize_targets"] = config.get("objective", {}).get("normalize_targets")
    recorded["class_names"] = tuple(meta.get("class_names") or ()) or None
    kind = "pretrain" if "decoder" in params else "classifier"
    sizes, assumed = complete(
        sizes_of(kind, params, model["tube_size"]), recorded | meta.get("heads", {}), given, source
    )
    return Weights(kind, params, sizes, source, notes, assumed)


def write_run(path: str | Path, weights: Weights) -> None:
    """Writes a run folder with one checkpoint, step 0, that holds the parameters only."""
    checkpoints = Checkpointer(Path(path) / "checkpoints", keep_last=1, save_every_steps=1)
    meta = {"weights": {"kind": weights.kind, "sizes": weights.sizes, "assumed": weights.assumed}}
    meta["weights"]["source"] = weights.source
    state = {"params": jax.tree.map(jnp.asarray, weights.params)}
    try:
        if 0 in checkpoints.all_steps():
            raise UnreadableWeights(f"{path} already holds a checkpoint of step 0: choose another folder")
        checkpoints.save(0, state, data_state={}, meta=meta, force=True)
        checkpoints.require(0)
    finally:
        checkpoints.close()
