"""The suite's copy of the goldens passes, and the comparison itself can fail."""

from pathlib import Path

import numpy as np
import pytest

from tests import parity

GOLDENS = Path(__file__).parent / "goldens"
FILES = sorted([*GOLDENS.rglob("*.npz"), *GOLDENS.glob("*.json")])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_equals_the_authors_numbers(path):
    rows = parity.rows_of(path)
    assert rows
    over = [row for row in rows if not row.ok]
    assert not over, over


def test_changed_goldens_fail_and_only_they(tmp_path, capsys):
    changes = {"losses": 1e-3, "grad:prototypes": 1e-4, "target_from_q1_steps": 1}
    with np.load(GOLDENS / "pretrain_mlp_swav.npz") as arrays:
        changed = dict(arrays)
    for key, amount in changes.items():
        changed[key] = changed[key] + np.asarray(amount, changed[key].dtype)
    path = tmp_path / "pretrain_mlp_changed.npz"
    np.savez(path, **changed)
    assert parity.main([str(path)]) == 1
    failed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  FAIL")]
    assert failed == ["target_from_q1", "grad", *(f"losses[{i}]" for i in range(4))]
