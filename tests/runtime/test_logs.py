"""What of other packages reaches the console: warnings, but not the hundreds of lines that repeat a failed save."""

import logging
import sys
import time
from types import SimpleNamespace

import pytest

from sigma_jax.runtime import logs


@pytest.mark.parametrize(
    "name,place,level,text,wanted",
    [
        ("absl", "/x/sigma_jax/train/loop.py", logging.INFO, "step 1", True),
        ("absl", "/x/orbax/checkpoint/manager.py", logging.INFO, "saved", False),
        ("absl", "/x/orbax/checkpoint/manager.py", logging.WARNING, "slow", True),
        ("absl", "/x/orbax/checkpoint/manager.py", logging.ERROR, "Failed to run 6 Handler Commit operations", False),
        ("asyncio", "/usr/lib/asyncio/base_events.py", logging.ERROR, "Future exception was never retrieved", False),
        ("asyncio", "/usr/lib/asyncio/base_events.py", logging.ERROR, "Exception in callback", True),
        ("jax", "/x/jax/_src/xla_bridge.py", logging.ERROR, "no device", True),
    ],
)
def test_what_is_wanted(name, place, level, text, wanted):
    assert logs.is_wanted(logging.LogRecord(name, level, place, 1, text, (), None)) == wanted


def test_closed_event_loops_are_left_out_and_nothing_else(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    logs._leave_out_closed_loops()
    logs._leave_out_closed_loops()
    for text in ("Event loop is closed", "another"):
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(problem.exc_value) for problem in seen] == ["another"]


def test_what_lasts_is_told_and_what_is_quick_is_not(caplog):
    with caplog.at_level(logging.INFO), logs.telling("thinking", seconds=60):
        pass
    assert not caplog.records
    with caplog.at_level(logging.INFO), logs.telling("thinking", seconds=0.01):
        while not caplog.records:
            time.sleep(0.01)
    assert [record.getMessage() for record in caplog.records] == ["thinking ...", "thinking: done after 0 s"]
