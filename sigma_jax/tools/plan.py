"""Compiles the training step for a machine, present or not, and forecasts its memory and its speed.

    python -m sigma_jax.tools.plan --config=configs/k400.py:target=dino --topology=v5e:4x4 --batch_per_chip=8
    python -m sigma_jax.tools.plan --config=configs/k400.py:target=dino --topology=h100:8 --vs="compute.unroll=1"
    python -m sigma_jax.tools.plan --config=configs/demo.py                     # this machine

--topology needs the platform's compiler, libtpu (pip install -e ".[tpu]") or JAX's CUDA plugin (launch/PODS.md), and no
TPU or GPU. Without --topology the compiled step stays in the compilation cache, where a run with the same flags finds
it. Exit status: 0 the step fits, 1 it does not, or another error.
"""

import json
import logging as python_logging
import os
import sys
from pathlib import Path
from typing import Any

if any(word.startswith("--topology") for word in sys.argv):
    os.environ["JAX_PLATFORMS"] = "cpu"  # compiling for chips that are elsewhere

import jax
from absl import flags

from sigma_jax.datasets.specs import SPECS
from sigma_jax.runtime import config as configs
from sigma_jax.runtime.command import Command, leave, parse_flags
from sigma_jax.runtime.compilation import use_compilation_cache
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.topologies import nearest_topology, topology_devices
from sigma_jax.tasks.base import run_config
from sigma_jax.tools.planning import text
from sigma_jax.tools.planning.chips import Chip, find_chip
from sigma_jax.tools.planning.forecast import Compiled, DoesNotFit, compile_program, forecast, usable_memory
from sigma_jax.tools.planning.search import advice, largest_batch
from sigma_jax.train.program import Program
from sigma_jax.train.setup import plan_program

FLAGS = flags.FlagValues()  # its own: commands share names
flags.DEFINE_string("config", None, "Config file, as for sigma_jax.main.", required=True, flag_values=FLAGS)
flags.DEFINE_string(
    "topology",
    None,
    "v5e:16x16 (TPU chips), h100:8 or h200:4x8 (GPUs, hosts x GPUs); default: this machine's devices.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "slices", 1, "Slices of that topology, joined by the data centre network.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "batch_per_chip",
    None,
    "Clips per chip; default: config.batch_size over the chips.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "num_records", None, "Training videos; default: those of the data set the config is named after.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "search", 0, "Compiles to spend on finding the largest batch per chip that fits.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_string(
    "vs",
    None,
    "Other config values, 'compute.unroll=1 compute.remat=full': compiled too, and compared part by part.",
    flag_values=FLAGS,
)
flags.DEFINE_float("price", None, "Price of a chip-hour; adds the cost of the whole run.", flag_values=FLAGS)
flags.DEFINE_bool("json", False, "One JSON object instead of text.", flag_values=FLAGS)


def make_program(overrides: dict[str, str], devices: list[jax.Device], clips: int | None) -> Program:
    """The program of --config at `clips` per chip (None: as the config says)."""
    config = run_config(FLAGS.config, overrides)
    if clips is not None:
        accumulate = min(config.max_batch_per_device, clips)
        sizes = {"batch_size": str(clips * len(devices)), "max_batch_per_device": str(accumulate)}
        config = configs.apply_overrides(config, sizes)
    spec = SPECS.get(config.data.get("name") or Path(FLAGS.config.partition(":")[0]).stem)
    if spec and spec.num_classes and config.data.get("num_classes", 0) is None:
        config = configs.apply_overrides(config, {"data.num_classes": str(spec.num_classes)})
    records = FLAGS.num_records or (spec.num_train if spec else 0) or config.batch_size
    return plan_program(config, records, devices)


def plan(overrides: dict[str, str]) -> dict[str, Any]:
    """Compiles the step and forecasts its cost; the result is what --json prints."""
    devices = topology_devices(FLAGS.topology, FLAGS.slices) if FLAGS.topology else jax.devices()
    chip = find_chip(devices[0].device_kind)
    if devices[0].platform == "tpu" and chip is not None and len(devices) > chip.slice_size * FLAGS.slices:
        raise InvalidValue(
            f"{FLAGS.topology} has {len(devices) // FLAGS.slices} chips, a slice of {chip.name} {chip.slice_size} at "
            f"most: take {nearest_topology(FLAGS.topology)} with --slices={-(-len(devices) // chip.slice_size)}"
        )
    program = make_program(overrides, devices, FLAGS.batch_per_chip)
    clips = program.plan.batch_size // len(devices)
    result: dict[str, Any] = {
        "config": FLAGS.config,
        "overrides": overrides,
        "topology": FLAGS.topology,
        "device_kind": devices[0].device_kind,
        "plan": program.plan.describe(),
    }
    outcome: Compiled | DoesNotFit
    try:
        outcome = compile_program(program, chip)
    except DoesNotFit as shortage:
        outcome = shortage
        result |= {"fits": False, "needed_bytes": shortage.needed, "available_bytes": shortage.available}
        result |= {"clips_per_chip": clips, "advice": advice(shortage.needed, shortage.available, program.task, clips)}
    else:
        result |= {"fits": True} | forecast(program, outcome, chip)
    if FLAGS.vs and result["fits"]:
        result["versus"] = versus(overrides, devices, chip)
    if FLAGS.search and chip is not None:
        capacity = outcome.available if isinstance(outcome, DoesNotFit) else usable_memory(chip)
        found = largest_batch(
            lambda n: compile_program(make_program(overrides, devices, n), chip),
            (clips, outcome),
            capacity,
            FLAGS.search,
        )
        result["largest_batch"] = found._asdict()
    if FLAGS.price and "chip_hours" in result:
        result["cost"] = FLAGS.price * result["chip_hours"]
    return result


def versus(overrides: dict[str, str], devices: list[jax.Device], chip: Chip | None) -> dict[str, Any]:
    """The forecast of the same plan with the values of --vs."""
    words = FLAGS.vs.split()
    if not words or any("=" not in word for word in words):
        raise InvalidValue(f"--vs={FLAGS.vs!r}: expected config values, such as --vs='compute.unroll=1 batch_size=64'")
    other = dict(word.removeprefix("--").removeprefix("config.").split("=", 1) for word in words)
    program = make_program(overrides | other, devices, FLAGS.batch_per_chip)
    return {"overrides": other} | forecast(program, compile_program(program, chip), chip)


def parse(argv: list[str]) -> dict[str, str]:
    """Flags, and the --config.x=y of the command line."""
    rest, overrides = configs.split_command_line(argv)
    parse_flags(FLAGS, rest, __doc__)
    return overrides


def make_plan(overrides: dict[str, str]) -> int:
    """Compiles, forecasts and prints."""
    python_logging.getLogger("jax").setLevel(python_logging.ERROR)
    if not FLAGS.topology:
        use_compilation_cache()
    result = plan(overrides)
    print(json.dumps(result, indent=2) if FLAGS.json else text.report(result))
    return 0 if result["fits"] else 1


main = Command("plan", parse, make_plan)

if __name__ == "__main__":
    leave(main(sys.argv))
