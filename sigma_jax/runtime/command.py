"""What every command does around its own work: parse flags, report errors, end on a signal, return an exit status.

Exit status: that of the command itself; 2 for wrong flags; 1 for a UserError or an error of the file system, each
reported in one sentence; 1 also for any other exception, whose traceback goes to the console and to
WORKDIR/error-PROCESS.txt; 130 and 143 after Ctrl-C and SIGTERM. SIGMA_TRACEBACK=1 shows where a UserError came from.
"""

import argparse
import contextlib
import dataclasses
import errno
import os
import re
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from sigma_jax.runtime import signals
from sigma_jax.runtime.errors import UserError

# Errors of a file system (a full disk, a missing folder, no permission) are not faults of the program: one sentence.
REFUSALS = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR),
    *(errno.EEXIST, errno.ENAMETOOLONG, errno.EIO, errno.ELOOP, errno.ESTALE, errno.EMFILE, errno.ENFILE),
}


class WrongUsage(UserError, ValueError):
    """Flags that do not go together, or are missing: exit status 2."""


class HelpWanted(Exception):
    """--help was given; the message is the usage."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line program; called with a command line (None: that of the process) it returns the exit status.

    Attributes:
      name: the prefix of its messages.
      parse: turns a command line into the argument of `run`. Where that has a `workdir`, tracebacks are written there.
      run: the command itself; returns its exit status.
      statuses: exit statuses by class of error, for callers that tell errors apart; the first match counts, else 1.
      after_stop: a sentence that is added to the message after Ctrl-C or SIGTERM.
      say: prints a message; default: `name: message` on stderr.
    """

    name: str
    parse: Callable[[list[str] | None], Any]
    run: Callable[[Any], int]
    statuses: Mapping[type[UserError], int] = dataclasses.field(default_factory=dict)
    after_stop: str = ""
    say: Callable[[str], None] | None = None

    def __call__(self, argv: list[str] | None = None) -> int:
        with signals.ending(self._tell_stop):
            args = None
            try:
                args = self.parse(argv)
                return self.run(args)
            except HelpWanted as wanted:
                print(wanted)  # noqa: T201
                return 0
            except BrokenPipeError:  # the reader of the output is gone, as in `... | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 141
            except KeyboardInterrupt as stop:
                # A plain KeyboardInterrupt comes from a library, or from where no handler could be installed.
                stopped = stop if isinstance(stop, signals.Stopped) else signals.Stopped(signal.SIGINT)
                self._tell_stop(str(stopped))
                return stopped.status
            except (UserError, flags.Error) as error:
                return self._refuse(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, its traceback is shown and kept
                missing = missing_platform(error)
                return self._refuse(missing) if missing else self._fail(error, getattr(args, "workdir", None))

    def tell(self, sentence: str) -> None:
        """Tells the user."""
        if self.say is not None:
            self.say(sentence)
        else:
            print(f"{self.name}: {sentence}", file=sys.stderr, flush=True)  # noqa: T201

    def end_at_once(self, sentence: str) -> NoReturn:
        """Prints why and ends the process at once, without cleaning up, for cases in which nothing may be written."""
        self.tell(sentence)
        sys.stderr.flush()
        os._exit(1)

    def _tell_stop(self, sentence: str) -> None:
        self.tell(f"{sentence}. {self.after_stop}" if self.after_stop else sentence)

    def _refuse(self, error: UserError | flags.Error) -> int:
        if os.environ.get("SIGMA_TRACEBACK"):
            traceback.print_exc()
        if isinstance(error, (WrongUsage, flags.Error)):
            self.tell(f"{str(error).rstrip('.')}. --help lists the flags")
            return 2
        self.tell(str(error))
        return next((status for kind, status in self.statuses.items() if isinstance(error, kind)), 1)

    def _fail(self, error: Exception, workdir: str | Path | None) -> int:
        """Shows and keeps the traceback; an error of the file system is one sentence on the console."""
        refused = isinstance(error, OSError) and error.errno in REFUSALS
        kept = keep_traceback(error, workdir)
        if not refused or os.environ.get("SIGMA_TRACEBACK"):
            traceback.print_exception(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.add_note("Make room, then start the same command again")
        where = f" (traceback: {kept})" if kept else " (SIGMA_TRACEBACK=1 shows where)" if refused else ""
        text = str(error).strip().removeprefix(f"[Errno {getattr(error, 'errno', '')}] ")
        text = ". ".join([text, *getattr(error, "__notes__", ())])
        self.tell(f"{text}{where}" if refused else f"{type(error).__name__}: {text[:2000]}{where}")
        return 1


def leave(status: int) -> NoReturn:
    """Exits with this status; after a signal within seconds, even if threads of a library are still running."""
    if status in (128 + number for number in signals.SIGNALS):
        signals.end_within(status)
    sys.exit(status)


def missing_platform(error: Exception) -> UserError | None:
    """What to tell the user where JAX could not start the platform that was asked for; None for any other error."""
    frames = traceback.extract_tb(error.__traceback__)
    is_start = bool(frames) and Path(frames[-1].filename).name == "xla_bridge.py"
    if not is_start or not isinstance(error, (RuntimeError, AssertionError)):
        return None
    asked = os.environ.get("JAX_PLATFORMS")
    named = f"the platform that JAX_PLATFORMS={asked} names" if asked else "this machine's accelerator"
    reason = str(error).partition(" (set JAX_PLATFORMS")[0] or "no such device, or no package for it"
    return UserError(
        f"JAX cannot start {named}: {reason}. Install its package (GPUs: pip install -e '.[cuda]', TPUs: '.[tpu]') and "
        "its driver, end other programs that hold it, or start with JAX_PLATFORMS=cpu"
    )


def keep_traceback(error: BaseException, workdir: str | Path | None) -> Path | None:
    """Appends the traceback to `workdir/error-<process>.txt`; None where there is no such folder, or no disk space."""
    if not workdir or not Path(workdir).is_dir():
        return None
    path = Path(workdir) / f"error-{_process()}.txt"
    with contextlib.suppress(OSError), open(path, "a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(sys.argv)}\n")
        file.writelines(traceback.format_exception(error))
        file.write("\n")
        return path
    return None


def _process() -> int:
    """This process's index in the run; found without starting a JAX backend."""
    jax = sys.modules.get("jax")
    return jax.process_index() if jax is not None and jax.distributed.is_initialized() else 0


def command_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m sigma_jax.tools.NAME`; --help begins with the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m sigma_jax.tools.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def natural(text: str) -> int:
    """The value of a flag that is a whole number from 0 up."""
    return _number(text, 0)


def positive(text: str) -> int:
    """The value of a flag that is a whole number from 1 up."""
    return _number(text, 1)


def _number(text: str, least: int) -> int:
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} up, got {text!r}")
    return int(text)


def add_weights_flags(parser: argparse.ArgumentParser, which: Sequence[str], *, decoder: bool = False) -> None:
    """The flags of commands that read weights; `which`: the sets of weights that a checkpoint may hold."""
    parser.add_argument("--weights", choices=which, default=which[0], help="ema: averaged weights")
    parser.add_argument("--num_heads", type=positive, help="where the weights do not say and width / 64 is wrong")
    if decoder:
        parser.add_argument("--decoder_num_heads", type=positive, help="likewise of the decoder")


def parse_flags(values: flags.FlagValues, argv: list[str], doc: str | None) -> list[str]:
    """Parses absl flags for a Command; returns the arguments that are no flags.

    Raises:
      HelpWanted: --help is among the flags.
      flags.Error: a flag is unknown or has a wrong value.
    """
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(argv[1:]):
        raise HelpWanted(usage(values, doc))
    for flag in own_flags(values):  # a second command line in one process starts from the defaults
        flag.unparse()
    return values(argv)[1:]


def usage(values: flags.FlagValues, doc: str | None) -> str:
    """The text of --help: the module's docstring and our flags, not those of libraries."""
    lines = [(doc or "").strip(), "", "flags:"]
    for flag in sorted(own_flags(values), key=lambda flag: flag.name):
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines += [f"  --{flag.name}", textwrap.indent(textwrap.fill(f"{flag.help}{default}", 100), " " * 6)]
    return "\n".join(lines)


def own_flags(values: flags.FlagValues) -> list[flags.Flag]:
    """The flags that this package defines; `values` may hold those of libraries, too."""
    modules = values.flags_by_module_dict().items()
    ours = [found for name, found in modules if name.startswith("sigma_jax") or name in ("__main__", sys.argv[0])]
    return list({flag.name: flag for found in ours for flag in found}.values())
