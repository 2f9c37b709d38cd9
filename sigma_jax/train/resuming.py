"""Checks that a run may resume from a checkpoint: same config, same data, and steps left to train.

Differences are listed, and are errors unless the user accepts them with a flag.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import logging

from sigma_jax.data import identity
from sigma_jax.runtime.config import diff_configs
from sigma_jax.runtime.errors import UserError
from sigma_jax.train.plan import RunPlan

MOVABLE = (  # settings that may change on resuming: they affect where and how fast a run computes
    *("mesh.", "data.num_workers", "data.cache_decoded", "data.decode_timeout", "log_every_", "checkpoint."),
    *("max_batch_per_device", "compute.unroll"),
)
OF_DATA = ("data.num_classes:", "data.label_hash:")  # taken from the data, so they are compared with the data
DURATIONS = ("steps_per_epoch", "total_steps", "warmup_steps", "save_every_steps", "keep_every_steps")


class ChangedConfig(UserError, ValueError):
    """The workdir holds a run with another config."""


class ChangedData(UserError, ValueError):
    """The workdir holds a run on other data."""


class NoStepsLeft(UserError, ValueError):
    """The checkpoint has made more steps than the plan has."""


class Allowed(NamedTuple):
    """What the user allows to differ from the checkpoint: --allow_config_change, --allow_data_change."""

    config: bool = False
    data: bool = False


NOTHING = Allowed()


class Facts(NamedTuple):
    """What is compared with a checkpoint: resolved config, plan, and identity of the data (data/identity.py)."""

    config: Mapping[str, Any]
    plan: RunPlan
    data: Mapping[str, Any]


def check_same_run(facts: Facts, step: int, meta: Mapping[str, Any], place: str, allowed: Allowed) -> None:
    """Compares a run with the checkpoint that it would resume from, before any array is read.

    Args:
      facts: of the run.
      step, meta: of the checkpoint. Older versions recorded no identity of the data: those are accepted with a note.
      place: folder of the checkpoints, for messages.
      allowed: differences that the user accepts.

    Raises:
      ChangedConfig, ChangedData, NoStepsLeft: list the differences and what to do.
    """
    differing = diff_configs(meta["config"], facts.config)
    changes = [line for line in differing if not line.startswith((*MOVABLE, *OF_DATA))]
    if changes and not allowed.config:
        raise ChangedConfig(
            f"{place} holds a run with another config:\n  " + "\n  ".join(changes) + "\n"
            "Use another --workdir, undo the change, or accept it with --allow_config_change"
        )
    durations = [
        f"{name}: {meta['plan'][name]} -> {getattr(facts.plan, name)}"
        for name in DURATIONS
        if meta["plan"].get(name) not in (None, getattr(facts.plan, name))
    ]
    others = _data_differences(facts, meta, [line for line in differing if line.startswith(OF_DATA)])
    if others and not allowed.data:
        follows = "\nWith these data the plan changes:\n  " + "\n  ".join(durations) if durations else ""
        raise ChangedData(
            f"{place} holds a run on other data:\n  " + "\n  ".join(others) + follows + "\n"
            "Use the data that it began with or another --workdir, or accept the change with --allow_data_change"
        )
    for title, lines in (("the data change", others), ("the plan changes", durations)):
        if lines:
            logging.warning("%s from step %d on: %s", title, step, "; ".join(lines))
    if step > facts.plan.total_steps:
        raise NoStepsLeft(
            f"{place} has a checkpoint of step {step}, the plan now ends at step {facts.plan.total_steps}: nothing is "
            "left to train. Set a longer duration, e.g. --config.total_steps"
        )
    _say_sinkhorn_batch(facts.plan, meta["plan"])


def _data_differences(facts: Facts, meta: Mapping[str, Any], of_config: list[str]) -> list[str]:
    """Differences of the data in sentences; without a recorded identity, those of plan and config."""
    if "data" in meta:
        return identity.differences(meta["data"], facts.data)
    before, now = meta["plan"].get("num_records"), facts.plan.num_records
    counted = [f"records: {before} -> {now}"] if before not in (None, now) else []
    if not counted and not of_config:
        logging.info("this checkpoint does not say which data it was made with; the next one will")
    return counted + of_config


def _say_sinkhorn_batch(plan: RunPlan, before: Mapping[str, Any]) -> None:
    """Warns when the number of micro-batches has changed, since Sinkhorn then balances another number of clips."""
    if before["accumulation"] != plan.accumulation and plan.num_prototypes:
        logging.warning(
            "this run had %d micro-batch(es) per step and now has %d, because the devices changed: Sinkhorn balances "
            "%d clips at a time instead of %d. To keep it, set --config.max_batch_per_device to fit %d devices",
            before["accumulation"],
            plan.accumulation,
            plan.batch_size // plan.accumulation,
            plan.batch_size // before["accumulation"],
            plan.num_devices,
        )
