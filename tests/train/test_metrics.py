"""The metrics file, TensorBoard, the throughput meter and the console."""

import io
import json
import logging
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.train.console import Console, format_metrics
from sigma_jax.train.metrics import MetricWriter, Throughput


def test_one_line_per_step_readable_at_once(tmp_path):
    writer = MetricWriter(tmp_path, active=True)
    writer.write(3, {"loss": jnp.float32(1.5), "count": np.int64(2), "bad": float("nan"), "big": float("inf")})
    text = (tmp_path / "metrics.jsonl").read_text()  # before close: it must be flushed
    assert json.loads(text) == {"step": 3, "loss": 1.5, "count": 2, "bad": "nan", "big": "inf"}
    with pytest.raises(ValueError, match="'loss' has shape"):
        writer.write(4, {"loss": np.zeros(2)})
    writer.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_torch_is_not_loaded(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("torch", "tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    MetricWriter(tmp_path, active=True).close()
    assert "torch" not in sys.modules and "tensorboardX" in sys.modules


def test_inactive_process_writes_nothing(tmp_path):
    writer = MetricWriter(tmp_path, active=False)
    writer.write(1, {"loss": 1.0})
    writer.warn(1, "too slow")
    writer.close()
    assert not list(tmp_path.iterdir())


def test_resume_has_each_step_once(tmp_path):
    writer = MetricWriter(tmp_path, active=True)
    for step in range(1, 8):
        writer.write(step, {"loss": 1.0})
        writer.warn(step, f"slow at {step}")
    writer.close()
    path = tmp_path / "metrics.jsonl"
    torn = b'12\n\xff\n\0\0\n{"step": 8, "lo'  # killed while writing, by a crash of the machine too
    path.write_bytes(path.read_bytes() + torn)
    writer = MetricWriter(tmp_path, active=True, resume_step=5)
    for step in range(6, 9):
        writer.write(step, {"loss": 2.0})
    writer.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["loss"] for row in rows] == [1.0] * 5 + [2.0] * 3
    warnings = [json.loads(line)["step"] for line in (tmp_path / "warnings.jsonl").read_text().splitlines()]
    assert warnings == [1, 2, 3, 4, 5]


def test_throughput():
    now = [100.0]
    meter = Throughput(clock=lambda: now[0])
    assert meter.read() == {}
    for _ in range(4):
        with meter.waiting():
            now[0] += 0.125
        now[0] += 0.375
        meter.count(7)
    assert meter.read() == {"clips_per_s": 14.0, "step_ms": 500.0, "data_wait_ms": 125.0}
    assert meter.read() == {}


METRICS = {
    "lr": 1.5e-4, "loss": 8.0064, "loss_over_lnk": 1.0, "prototypes_used_pred": 0.64, "loss_pred": 9.0, "extra": 0.5,
}  # fmt: skip


def test_line_form(caplog):
    line = "loss 8.006 loss/lnK 1.000 prototypes 64% lr 1.50e-04 extra 0.5"
    assert format_metrics(METRICS) == line
    console = Console(900, stream=io.StringIO())
    with caplog.at_level(logging.INFO, logger="absl"):
        console.advance(120)
        console.show(120, METRICS, epoch=1.234)
        console.say("loss is high", warning=True)
        console.close()
    assert caplog.messages == [f"step 120/900 (epoch 1.2) {line}", "loss is high"]
    assert caplog.records[1].levelno == logging.WARNING


def test_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    console = Console(900, start_step=100, stream=terminal)
    console.advance(450)
    console.show(450, METRICS, epoch=4.5)
    console.say("saved step 450")
    console.close()
    shown = terminal.getvalue()
    assert "450/900" in shown and "50%" in shown and "prototypes 64%" in shown and "saved step 450" in shown
