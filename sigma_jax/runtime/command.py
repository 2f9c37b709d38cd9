"""The frame around every command: how flags are wrong, how errors are told, how a signal ends it, what is returned.

Exit status: what the command says; 2 wrong flags; 1 a UserError, told in one sentence, or a file system that refuses;
1 also for any other exception, whose traceback stays on the console and in WORKDIR/error-PROCESS.txt; 130 and 143 after
Ctrl-C and SIGTERM. SIGMA_TRACEBACK=1 shows where a UserError came from.
"""

import contextlib
import errno
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from sigma_jax.runtime import signals
from sigma_jax.runtime.errors import UserError

# What a file system says of itself: a full disk, a missing folder, no permission. Not a fault of the program.
REFUSALS = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR),
    *(errno.EEXIST, errno.ENAMETOOLONG, errno.EIO, errno.ELOOP, errno.ESTALE, errno.EMFILE, errno.ENFILE),
}


class WrongUsage(UserError, ValueError):
    """Flags that do not go together, or lack: exit status 2."""


class HelpWanted(Exception):
    """--help was given; the message is the usage."""


def run_command(
    name: str,
    parse: Callable[[list[str] | None], Any],
    run: Callable[[Any], int],
    argv: list[str] | None,
    *,
    say: Callable[[str], None] | None = None,
    statuses: Mapping[type[BaseException], int] | None = None,
) -> int:
    """Parses the command line and runs the command; returns its exit status.

    Args:
      name: what the sentences begin with.
      parse: command line -> what `run` takes. Where that has a `workdir`, tracebacks are kept there.
      run: the command itself.
      argv: the command line, as `parse` wants it.
      say: tells a sentence; default: `name: sentence` on stderr.
      statuses: exit statuses of errors that a caller tells apart (default 1).
    """
    say = say or (lambda sentence: print(f"{name}: {sentence}", file=sys.stderr, flush=True))  # noqa: T201
    with signals.ending(say):
        args = None
        try:
            args = parse(argv)
            return run(args)
        except HelpWanted as wanted:
            print(wanted)  # noqa: T201
            return 0
        except (WrongUsage, flags.Error) as error:
            _show_where()
            say(f"{error}. --help lists the flags")
            return 2
        except UserError as error:
            _show_where()
            say(str(error))
            return next((status for kind, status in (statuses or {}).items() if isinstance(error, kind)), 1)
        except signals.Stopped as stopped:
            say(str(stopped))
            return stopped.status
        except KeyboardInterrupt:  # raised by a library, or where no handler could be installed
            say(str(signals.Stopped(2)))
            return 130
        except BrokenPipeError:  # the reader of the output is gone, as in `... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except Exception as error:  # noqa: BLE001 - whatever it is, its traceback is shown and kept
            return _fault(error, getattr(args, "workdir", None), say)


def leave(status: int) -> NoReturn:
    """Exits with this status; after a signal within seconds, also where threads of a library are still at work."""
    if status in (128 + number for number in signals.SIGNALS):
        signals.end_within(status)
    sys.exit(status)


def _show_where() -> None:
    if os.environ.get("SIGMA_TRACEBACK"):
        traceback.print_exc()


def _fault(error: Exception, workdir: Any, say: Callable[[str], None]) -> int:
    """Shows and keeps the traceback of what is no UserError; a file system's refusal is one sentence on the console."""
    refused = isinstance(error, OSError) and error.errno in REFUSALS
    kept = keep_traceback(error, workdir)
    if not refused or os.environ.get("SIGMA_TRACEBACK"):
        traceback.print_exception(error)
    where = f" (traceback: {kept})" if kept else " (SIGMA_TRACEBACK=1 shows where)" if refused else ""
    text = str(error).strip().removeprefix(f"[Errno {getattr(error, 'errno', '')}] ")
    say(f"{text}{where}" if refused else f"{type(error).__name__}: {text[:2000]}{where}")
    return 1


def keep_traceback(error: BaseException, workdir: str | Path | None) -> Path | None:
    """Adds the traceback to `workdir/error-<process>.txt`; None where there is no such folder, or no room."""
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
    """This process's number in the run; does not start a backend to learn it."""
    jax = sys.modules.get("jax")
    return jax.process_index() if jax is not None and jax.distributed.is_initialized() else 0


def parse_flags(values: flags.FlagValues, argv: list[str], doc: str) -> list[str]:
    """absl flags for `run_command`: what is left of the command line behind the program's name.

    Raises:
      HelpWanted: --help is among them; flags.Error: one is unknown or has a wrong value.
    """
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(argv[1:]):
        raise HelpWanted(usage(values, doc))
    return values(argv)[1:]


def usage(values: flags.FlagValues, doc: str) -> str:
    """The text of --help: the module's docstring and our flags (absl's and grain's are left out)."""
    modules = values.flags_by_module_dict()
    own = [flag for module, found in modules.items() if not module.startswith(("absl", "grain")) for flag in found]
    lines = [doc.strip(), "", "flags:"]
    for flag in sorted({flag.name: flag for flag in own}.values(), key=lambda flag: flag.name):
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines += [f"  --{flag.name}", textwrap.indent(textwrap.fill(f"{flag.help}{default}", 100), " " * 6)]
    return "\n".join(lines)
