"""Trains what a config says.

    python -m sigma_jax.main --config=configs/k400.py --workdir=runs/k400 --data_dir=DATA/k400
    python -m sigma_jax.main --config=configs/k400.py:size=S,target=dino --config.optim.base_lr=1e-4 ...

The same workdir resumes. Several hosts: start the same command on each (launch/PODS.md).
--mode=eval --init=CHECKPOINT trains nothing and writes the test's result to workdir/eval.
Exit status: 0 done; 75 preempted, 76 another process was lost: start the same command again; 69 the processes did not
meet; 1 anything else, 2 wrong flags. launch/keep_running.sh does the starting.
"""

import os
import sys
from pathlib import Path

if "host_platform_device_count" in os.environ.get("XLA_FLAGS", "") or "JAX_NUM_CPU_DEVICES" in os.environ:
    os.environ.setdefault("PJRT_NPROC", "16")  # fewer threads than simulated devices deadlock at collectives

import jax
from absl import flags, logging

from sigma_jax.runtime import config as configs
from sigma_jax.runtime import distributed
from sigma_jax.runtime.compilation import use_compilation_cache
from sigma_jax.runtime.logs import start_logging
from sigma_jax.train import loop, setup
from sigma_jax.train.evaluate import evaluate
from sigma_jax.train.initial_weights import init_from
from sigma_jax.train.report import write_report

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "Config file, with structure after ':', e.g. configs/k400.py:size=S", required=True)
flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, logs, pictures. The same folder resumes.")
flags.DEFINE_string("data_dir", None, "Folder of record shards, made by sigma_jax.tools.prepare.")
flags.DEFINE_string("teacher", None, "Weights of the frozen teacher, any format, for target=dino or feature.")
flags.DEFINE_bool("random_teacher", False, "Use a random teacher: smoke tests only.")
flags.DEFINE_string("init", None, "Start from these weights: a run folder or any format of tools.convert.")
flags.DEFINE_string("allow_missing", "", "Parts that --init may lack, e.g. head,decoder/head: they start fresh.")
flags.DEFINE_string("allow_unexpected", "", "Parts of --init that need not be used, e.g. decoder,prototypes.")
flags.DEFINE_enum("mode", "train", ["train", "eval"], "eval: only test the weights of --init.")
flags.DEFINE_string("platform", None, "cpu: train on the CPU even if the config needs an accelerator.")
distributed.define_flags()
flags.DEFINE_string("checkpoint_dir", None, "Where checkpoints go, e.g. gs://...; default: workdir/checkpoints.")
flags.DEFINE_bool("report", True, "Draw pictures and report.html at the end; tools.report draws them at any time.")
flags.DEFINE_bool("allow_config_change", False, "Resume although the config differs from the checkpoint's.")

USER_ERRORS = (ValueError, TypeError, AttributeError, OSError, RuntimeError)


def run(config, command: list[str]) -> None:
    """Plans, trains, reports."""
    if not FLAGS.workdir or not FLAGS.data_dir:
        raise ValueError(
            f"got --workdir={FLAGS.workdir} --data_dir={FLAGS.data_dir}: both are needed. Make a data folder with "
            "python -m sigma_jax.tools.prepare --videos=FOLDER --out=DIR"
        )
    for name, place in (("workdir", FLAGS.workdir), ("data_dir", FLAGS.data_dir)):
        if "://" in place:
            raise ValueError(
                f"--{name}={place}: expected a local folder. Checkpoints go to a bucket with --checkpoint_dir=; shards "
                "are read from a mounted bucket or a copy (launch/PODS.md)"
            )
    setup.require_platform(config, FLAGS.platform)
    workdir = Path(FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if FLAGS.mode == "eval":
        if not FLAGS.init:
            raise ValueError("--mode=eval measures a checkpoint: give --init=RUN_FOLDER, its best, or a step folder")
        evaluate(config, workdir, FLAGS.data_dir, FLAGS.init)
        return
    job = setup.build(
        config,
        workdir,
        FLAGS.data_dir,
        teacher=FLAGS.teacher,
        random_teacher=FLAGS.random_teacher,
        init_from=init_from(FLAGS.init, FLAGS.allow_missing, FLAGS.allow_unexpected),
    )
    job.checkpoint_dir = FLAGS.checkpoint_dir or job.checkpoint_dir
    distributed.check_agreement({**job.config.to_dict(), "number of records": job.plan.num_records})
    for line in job.plan.describe():
        logging.info("plan: %s", line)
    state = loop.train(job, command=command, allow_config_change=FLAGS.allow_config_change)
    page = write_report(job, state) if FLAGS.report else None
    if page:
        logging.info("report: %s", page)


def main(argv: list[str]) -> int:
    """Parses flags and overrides; user errors are sentences, not tracebacks."""
    start_logging()
    try:
        rest, overrides = configs.split_command_line(argv)
        FLAGS(rest)
        if FLAGS.platform:
            jax.config.update("jax_platforms", FLAGS.platform)
        use_compilation_cache()
        config = configs.apply_overrides(configs.load_config(FLAGS.config), overrides)
        meeting = distributed.meeting_from_flags()
        logging.info("%s", distributed.connect(meeting, FLAGS.connect_seconds, FLAGS.peer_seconds))
        run(config, ["python", "-m", "sigma_jax.main", *argv[1:]])
    except loop.Preempted as notice:
        logging.warning("%s", notice)
        return loop.RESTART_CODE
    except flags.Error as error:
        print(f"{error}\n{__doc__}", file=sys.stderr)  # noqa: T201
        return 2
    except jax.errors.JaxRuntimeError as error:
        if os.environ.get("SIGMA_TRACEBACK"):
            raise
        lost = distributed.lost_another(error)
        cause = "the step failed" + (", probably because another process stopped" if lost else "")
        logging.error("%s: %s (SIGMA_TRACEBACK=1 shows where)", cause, str(error)[:2000])
        return distributed.LOST_CODE if lost else 1
    except distributed.CannotConnect as error:
        if os.environ.get("SIGMA_TRACEBACK"):
            raise
        logging.error("CannotConnect: %s", error)
        return distributed.ALONE_CODE
    except USER_ERRORS as error:
        if os.environ.get("SIGMA_TRACEBACK"):
            raise
        logging.error("%s: %s (SIGMA_TRACEBACK=1 shows where)", type(error).__name__, error)
        return 1
    return 0


def end(code: int) -> None:
    """Exits; a failed process of several does not wait for the others."""
    distributed.leave(code if code != loop.RESTART_CODE else 0)
    sys.exit(code)


if __name__ == "__main__":
    end(main(sys.argv))
