"""Progress of a run on the screen: a bar on a terminal, plain log lines anywhere else."""

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from absl import logging
from tqdm import tqdm

# Metric name -> (label, format of the number). Other names are shown as `name number`.
FORMATS = {
    "loss": ("loss", "{:.4g}"),
    "loss_over_lnk": ("loss/lnK", "{:.3f}"),
    "prototypes_used_pred": ("prototypes", "{:.0%}"),
    "assignment_entropy_pred": ("entropy", "{:.2f}"),
    "marginal_error_pred": ("marginal", "{:.1e}"),
    "grad_norm": ("grad", "{:.3g}"),
    "lr": ("lr", "{:.2e}"),
    "clips_per_s": ("clips/s", "{:.4g}"),
    "step_ms": ("step ms", "{:.4g}"),
    "data_wait_ms": ("wait ms", "{:.3g}"),
    "mfu": ("MFU", "{:.1%}"),
    "nonfinite_steps": ("non-finite", "{:.0f}"),
    "bad_videos": ("bad videos", "{:.0f}"),
    "memory_gib": ("GiB", "{:.2f}"),
}
HIDDEN = {  # written to metrics.jsonl but left out of the line
    "loss_proj", "loss_pred", "prototypes_used_proj", "assignment_entropy_proj", "marginal_error_proj", "param_norm",
    "nonfinite_run",
}  # fmt: skip


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """`loss 8.01 loss/lnK 1.000 prototypes 64% ...`: known names in the order of FORMATS, then the others."""
    shown = [name for name in FORMATS if name in metrics]
    shown += [name for name in metrics if name not in FORMATS and name not in HIDDEN]
    parts = []
    for name in shown:
        label, form = FORMATS.get(name, (name, "{:.4g}"))
        parts.append(f"{label} {form.format(float(metrics[name]))}")
    return " ".join(parts)


class Console:
    """Progress of one run: a bar when `stream` is a terminal, otherwise one log line per `show`.

    Args:
      total_steps, start_step: steps of the whole run, and those that are done already.
      stream: where the bar goes; None for standard error.
      active: False in all processes but process 0; then only warnings are shown.
    """

    def __init__(self, total_steps: int, start_step: int = 0, stream: TextIO | None = None, *, active: bool = True):
        self._total, self._active = total_steps, active
        stream = stream or sys.stderr
        self._bar = None
        if active and stream.isatty():
            self._bar = tqdm(total=total_steps, initial=start_step, file=stream, unit="step", dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """Move the bar to `step` (steps done); call it every step, it costs microseconds."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def show(self, step: int, metrics: Mapping[str, Any], epoch: float) -> None:
        """Show the numbers of `step`; `epoch` is fractional."""
        if not self._active:
            return
        text = f"(epoch {epoch:.1f}) {format_metrics(metrics)}"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            logging.info("step %d/%d %s", step, self._total, text)

    def say(self, text: str, warning: bool = False) -> None:
        """Show a sentence (warning, checkpoint, evaluation) above the bar, or in the log where there is no bar."""
        if self._bar is not None:
            self._bar.write(f"WARNING: {text}" if warning else text, file=self._bar.fp)
        elif warning:
            logging.warning("%s", text)
        elif self._active:
            logging.info("%s", text)

    def close(self) -> None:
        """Leave the finished bar on the screen; the last call."""
        if self._bar is not None:
            self._bar.close()
