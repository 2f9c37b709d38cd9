"""Trains, or tests, the model that a config describes.

    python -m sigma_jax.main --config=configs/k400.py --workdir=runs/k400 --data_dir=DATA/k400
    python -m sigma_jax.main --config=configs/k400.py:size=S,target=dino --config.optim.base_lr=1e-4 ...

The same command resumes a run in its workdir. With several hosts, start the same command on each (launch/PODS.md).
--mode=eval --init=WEIGHTS runs the config's test on these weights and writes the result to workdir/eval.
Exit status: 0 done; 75 preempted, 76 another process was lost: start the same command again (launch/keep_running.sh
does so); 69 the processes could not connect; 2 wrong flags; 1 any other error.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

if "host_platform_device_count" in os.environ.get("XLA_FLAGS", "") or "JAX_NUM_CPU_DEVICES" in os.environ:
    os.environ.setdefault("PJRT_NPROC", "16")  # fewer threads than simulated devices deadlock at collectives

import jax
from absl import flags, logging

from sigma_jax.checkpoints import storage
from sigma_jax.report.run import write_report
from sigma_jax.runtime import config as configs
from sigma_jax.runtime import distributed, signals
from sigma_jax.runtime.command import Command, keep_traceback, leave, parse_flags
from sigma_jax.runtime.compilation import use_compilation_cache
from sigma_jax.runtime.errors import Failed, InvalidValue
from sigma_jax.runtime.execution import choose_platform
from sigma_jax.runtime.logs import start_logging, telling
from sigma_jax.tasks.base import Place, run_config
from sigma_jax.train import loop, setup
from sigma_jax.train.evaluate import evaluate
from sigma_jax.train.initial_weights import StartFrom, init_from
from sigma_jax.train.resuming import Allowed
from sigma_jax.weights.formats import WHICH

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "Config file, with arguments after ':', e.g. configs/k400.py:size=S", required=True)
flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, logs, pictures. The same folder resumes.")
flags.DEFINE_string("data_dir", None, "Folder of record shards, made by sigma_jax.tools.prepare.")
flags.DEFINE_string("teacher", None, "Weights of the frozen teacher in any format, for target=dino or feature.")
flags.DEFINE_bool("random_teacher", False, "Use a random teacher: smoke tests only.")
flags.DEFINE_string("init", None, "Start from these weights: a run folder, or any format that tools.convert reads.")
flags.DEFINE_enum("weights", "model", WHICH, "Which weights of --init to use; ema: the averaged ones.")
flags.DEFINE_string("allow_missing", "", "Parts that --init may lack, e.g. head,decoder/head; initialised randomly.")
flags.DEFINE_string("allow_unexpected", "", "Parts of --init that may be left unused, e.g. decoder,prototypes.")
flags.DEFINE_enum("mode", "train", ["train", "eval"], "eval: only test the weights of --init.")
flags.DEFINE_string("platform", None, "cpu: train on the CPU even if the config needs an accelerator.")
distributed.define_flags()
flags.DEFINE_string("checkpoint_dir", None, "Where checkpoints go, e.g. gs://...; default: workdir/checkpoints.")
flags.DEFINE_bool("report", True, "Draw pictures and report.html at the end; tools.report draws them at any time.")
flags.DEFINE_bool("allow_config_change", False, "Resume although the config differs from the checkpoint's.")
flags.DEFINE_bool("allow_data_change", False, "Resume although the data are not those that the run began with.")


class LostAnother(Failed):
    """A step failed because another process of the run stopped."""


class Start(NamedTuple):
    """The command line, besides the flags.

    workdir: local folder of the run, where a traceback can be kept; None for none. overrides: the --config.x=y.
    command: the words that were typed, for the run's files.
    """

    workdir: str | None
    overrides: dict[str, str]
    command: list[str]


def check_places(config: configs.ConfigDict) -> None:
    """Checks --workdir, --data_dir and that the machine suits the config.

    Raises:
      InvalidValue: a folder is missing, or is a bucket.
      NoAccelerator: the config needs an accelerator and there is none.
    """
    if not FLAGS.workdir or not FLAGS.data_dir:
        raise InvalidValue(
            f"got --workdir={FLAGS.workdir} --data_dir={FLAGS.data_dir}: both are needed. Make a data folder with "
            "python -m sigma_jax.tools.prepare --videos=FOLDER --out=DIR"
        )
    for name, place in (("workdir", FLAGS.workdir), ("data_dir", FLAGS.data_dir)):
        if "://" in place:
            raise InvalidValue(
                f"--{name}={place}: expected a local folder. Checkpoints go to a bucket with --checkpoint_dir=; shards "
                "are read from a mounted bucket or a copy (launch/PODS.md)"
            )
    setup.require_platform(config.needs_accelerator, FLAGS.platform)


@contextlib.contextmanager
def owning_folders(workdir: Path, checkpoint_dir: str | None) -> Iterator[None]:
    """Context that locks the workdir and the folder of the checkpoints for this run (a bucket has no locks).

    Raises:
      FolderInUse: another running process has locked one of them.
    """

    places = [str(workdir)] + ([checkpoint_dir] if checkpoint_dir and "://" not in checkpoint_dir else [])
    with contextlib.ExitStack() as stack:
        for folder in dict.fromkeys(storage.absolute(place) for place in places):
            storage.check_writable(folder)
            stack.enter_context(distributed.owned_by_run(folder, main.end_at_once))
        yield


def run(config: configs.ConfigDict, command: list[str]) -> None:
    """Plans, trains, reports."""
    workdir = Path(FLAGS.workdir)
    if FLAGS.mode == "eval":
        if not FLAGS.init:
            raise InvalidValue("--mode=eval measures a checkpoint: give --init=RUN_FOLDER, its best, or a step folder")
        signals.take_back(signal.SIGTERM)  # jax.distributed handles it so that training can save; here nothing is saved
        task = setup.build_task(setup.resolve(config, FLAGS.data_dir))
        evaluate(task, Place(FLAGS.data_dir, workdir), FLAGS.init, FLAGS.weights)
        return
    init = init_from(FLAGS.init, FLAGS.allow_missing, FLAGS.allow_unexpected, FLAGS.weights)
    start = StartFrom(init, FLAGS.teacher, FLAGS.random_teacher)
    job = setup.build(config, workdir, FLAGS.data_dir, start=start, checkpoint_dir=FLAGS.checkpoint_dir)
    distributed.check_agreement({**job.recorded, "data set": job.data})
    for line in job.plan.describe():
        logging.log(logging.WARNING if line.startswith("WARNING") else logging.INFO, "plan: %s", line)
    allowed = Allowed(FLAGS.allow_config_change, FLAGS.allow_data_change)
    state = loop.train(job, command=command, allowed=allowed)
    if not FLAGS.report:
        return
    with telling("drawing pictures and report.html"):
        page = write_report(job.trained(state), job.place)
    if page:
        logging.info("report: %s", page)


def parse(argv: list[str]) -> Start:
    """Parses the flags into FLAGS and returns the rest of the command line.

    Raises:
      UserError: wrong flags.
    """
    start_logging()
    rest, overrides = configs.split_command_line(argv)
    parse_flags(FLAGS, rest, __doc__)
    workdir = FLAGS.workdir if FLAGS.workdir and "://" not in FLAGS.workdir else None
    return Start(workdir, overrides, ["python", "-m", "sigma_jax.main", *argv[1:]])


def start(given: Start) -> int:
    """Connects to the other processes and runs; returns the exit status.

    Raises:
      LostAnother: a step failed in JAX, probably because another process stopped.
      UserError: the config, the data, the weights or the machine do not fit together.
    """
    choose_platform(FLAGS.platform)
    note = use_compilation_cache()
    if note:
        logging.warning("%s", note)
    config = run_config(FLAGS.config, given.overrides)
    meeting = distributed.meeting_from_flags()
    logging.info("%s", distributed.connect(meeting, FLAGS.connect_seconds, FLAGS.peer_seconds))
    check_places(config)
    try:
        with owning_folders(Path(FLAGS.workdir), FLAGS.checkpoint_dir):
            run(config, given.command)
    except loop.Preempted as notice:
        logging.warning("%s", notice)
        return loop.RESTART_CODE
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not distributed.lost_another(error):
            raise
        kept = keep_traceback(error, given.workdir)
        raise LostAnother(
            f"the step failed, probably because another process stopped: {str(error)[:2000]} (traceback: {kept})"
        ) from error
    return 0


main = Command(
    "main",
    parse,
    start,
    statuses={LostAnother: distributed.LOST_CODE, distributed.CannotConnect: distributed.ALONE_CODE},
    say=logging.error,
    after_stop="The same command goes on from the last checkpoint, if there is one",
)


def end(code: int) -> None:
    """Exits; a process that failed does not wait for the others."""
    distributed.leave(code if code != loop.RESTART_CODE else 0)
    leave(code)


if __name__ == "__main__":
    end(main(sys.argv))
