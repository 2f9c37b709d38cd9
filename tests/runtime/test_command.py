"""What all commands share: exit statuses, error messages, kept tracebacks, signals that end a library's calls."""

import errno
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sigma_jax.runtime import command, signals, starting
from sigma_jax.runtime.errors import InvalidValue, UserError


class Special(UserError, RuntimeError):
    """An error with a status of its own."""


def run(tmp_path, error: BaseException | None = None, **more) -> int:
    def body(args):
        if error is not None:
            raise error
        return 7

    return command.Command("tool", lambda argv: SimpleNamespace(workdir=tmp_path), body, **more)([])


def test_the_commands_own_status(tmp_path):
    assert run(tmp_path) == 7


@pytest.mark.parametrize(
    "error,status,told",
    [
        (InvalidValue("got 3, expected 4"), 1, "tool: got 3, expected 4\n"),
        (Special("lost"), 76, "tool: lost\n"),
        (command.WrongUsage("--a needs --b"), 2, "tool: --a needs --b. --help lists the flags\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "tool: No space left on device: '/x/y'"),
        (signals.Stopped(signal.SIGTERM), 143, "tool: stopped by SIGTERM\n"),
        (KeyboardInterrupt(), 130, "tool: stopped by Ctrl-C\n"),
        (command.HelpWanted("usage"), 0, ""),
    ],
)
def test_what_is_told_in_one_sentence(error, status, told, tmp_path, capsys):
    assert run(tmp_path, error, statuses={Special: 76}) == status
    said = capsys.readouterr().err
    assert said.startswith(told) and "Traceback" not in said and len(said.splitlines()) <= 1


def test_a_fault_keeps_its_traceback_on_the_console_and_in_the_workdir(tmp_path, capsys):
    for name in ("first", "second"):
        assert run(tmp_path, KeyError(name)) == 1
    said, kept = capsys.readouterr().err, (tmp_path / "error-0.txt").read_text()
    for text in (said, kept):
        assert text.count("Traceback") == 2 and "KeyError: 'second'" in text and "test_command.py" in text
    assert said.splitlines()[-1] == f"tool: KeyError: 'second' (traceback: {tmp_path / 'error-0.txt'})"


@pytest.mark.parametrize("platform", ["cuda", "tpu", "abacus"])
def test_a_platform_that_is_not_there_is_one_sentence(platform):
    code = (
        "import jax; from sigma_jax.runtime.command import Command;"
        "raise SystemExit(Command('tool', lambda argv: None, lambda args: jax.device_count())([]))"
    )
    asked = os.environ | {"JAX_PLATFORMS": platform, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"tool: JAX cannot start the platform that JAX_PLATFORMS={platform} names: " in done.stderr


def test_a_fault_without_a_folder_is_no_second_fault(tmp_path, capsys):
    assert run(tmp_path / "nowhere", ValueError("bug")) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "tool: ValueError: bug"


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    notice = signals.Notice(print)
    with signals.ending(print), signals.handlers(notice.handle):
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.came
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_a_second_ctrl_c_ends_a_run_that_saves():
    said = []
    notice = signals.Notice(said.append)
    with signals.ending(print), pytest.raises(signals.Stopped), signals.handlers(notice.handle):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert notice.came and len(said) == 1
        os.kill(os.getpid(), signal.SIGINT)


HANGS = """
import sys, threading
from sigma_jax.runtime import command, signals, starting
def hang(args):
    threading.Thread(target=threading.Event().wait).start()  # Python waits for it when the program ends
    while True:
        try:
            print("ready", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            if not swallows:
                raise
swallows = sys.argv[1] == "swallows"
signals.GRACE_SECONDS = 0.2
command.leave(command.Command("tool", lambda argv: None, hang)([]))
"""


@pytest.mark.parametrize("library", ["swallows", "keeps threads"])
@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_command_ends_although_a_library(library, number):
    command_line = [sys.executable, "-c", HANGS, library]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and said.count("\n") == 1 and said.startswith("tool: stopped by")


def test_worker_processes_do_not_get_ctrl_c():
    program = "import time; print('ready', flush=True); time.sleep(0.3)"
    with signals.shielded():
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    process.stdout.close()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(
    "argv,ours",
    [
        (["python", "-m", "sigma_jax.main", "--config=x"], True),
        (["python", "-u", "-m", "sigma_jax.tools.probe"], True),
        (["python", "-m", "pytest", "sigma_jax.main"], False),
        (["python", "train.py", "-m", "sigma"], False),
        (["python"], False),
    ],
)
def test_only_our_own_commands_change_the_program(argv, ours):
    assert starting.is_command(argv) == ours


def test_ctrl_c_while_importing_is_a_sentence(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *problem: seen.append(problem[0]))
    starting.tell_interrupts()
    for error in (KeyboardInterrupt(), ImportError("no jax")):
        sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err == "stopped by Ctrl-C while starting\n" and seen == [ImportError]
