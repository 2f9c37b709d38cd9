"""Compares our code with arrays made by the authors' PyTorch code.

    python -m tests.parity FILE.npz...

The kind of a file is the prefix of its name (pretrain_, sinkhorn, finetune_cls, schedule, masks, dino_vit, dinov2_vit;
of the benchmarks uvos_*, vos_propagation, severe_*, rc_*, charades_*), or, for param_tables.json, parameter names and
shapes. Sizes come from the file. Prints the largest deviation of each quantity beside its limit; exits 1 if any is over
it.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import numpy as np

from sigma_jax.models.sizes import TEACHER_SIZES, VIDEO_SIZES


@dataclasses.dataclass(frozen=True)
class Row:
    """One compared quantity; `deviation` and `limit` in the quantity's own unit."""

    name: str
    deviation: float
    limit: float

    @property
    def ok(self) -> bool:
        return bool(self.deviation <= self.limit)  # a NaN is not ok


def compare(name: str, ours, theirs, limit: float) -> Row:
    """Largest absolute difference; different shapes deviate infinitely."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return Row(f"{name} (shape {ours.shape} against {theirs.shape})", np.inf, limit)
    if ours.dtype.kind in "US":
        return Row(name, float(np.sum(ours != theirs)), limit)
    return Row(name, float(np.max(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)), initial=0)), limit)


def rows_of(path: str | Path) -> list[Row]:
    """All comparisons that a golden file allows."""
    from tests import (
        parity_attentive,
        parity_classifier,
        parity_parts,
        parity_pretrain,
        parity_segmentation,
        parity_severe,
    )

    path = Path(path)
    if path.suffix == ".json":
        return parity_parts.param_tables(json.loads(path.read_text()), VIDEO_SIZES, TEACHER_SIZES)
    kinds = {
        "pretrain_": parity_pretrain.rows,
        "finetune_cls": parity_classifier.rows,
        "sinkhorn": parity_parts.sinkhorn,
        "schedule": parity_parts.schedule,
        "masks": parity_parts.masks,
        "dinov2_vit": parity_parts.teacher,
        "dino_vit": parity_parts.teacher,
        "vos_propagation": parity_segmentation.vos_propagation,
        "attentive_probe": parity_attentive.rows,
    }
    for name in ("match", "batch", "input", "categories", "pca", "upsample", "kmeans", "pipeline"):
        kinds[f"uvos_{name}"] = getattr(parity_segmentation, f"uvos_{name}")
    for prefix, rows in parity_severe.KINDS.items():
        kinds[prefix] = functools.partial(rows, path=path)
    for prefix, rows in kinds.items():
        if path.name.startswith(prefix):
            with np.load(path) as arrays:
                return rows(dict(arrays))
    raise SystemExit(f"{path}: the name must start with one of {', '.join(kinds)}, or be a parameter table (.json)")


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__)
        return 2
    jax.config.update("jax_default_matmul_precision", "highest")
    failed = 0
    for path in paths:
        print(path)
        for row in rows_of(path):
            failed += not row.ok
            print(f"  {'ok  ' if row.ok else 'FAIL'} {row.name:<44} {row.deviation:9.2e}  limit {row.limit:.0e}")
    print(f"{failed} comparisons over their limit" if failed else "all within their limits")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
