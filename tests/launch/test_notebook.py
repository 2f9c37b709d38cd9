"""The notebook runs top to bottom on a CPU, and lies in git without outputs."""

import json
import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "launch" / "colab.ipynb"


def test_notebook_holds_no_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert any(cell["cell_type"] == "code" for cell in cells)
    for cell in cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell["source"][:80]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_notebook_runs_top_to_bottom(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("SIGMA_NOTEBOOK_SMALL", "1")
    monkeypatch.setenv("SIGMA_NOTEBOOK_WORK", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
    monkeypatch.setenv("XLA_FLAGS", " ".join(flags))  # one device, as on a laptop
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=800, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 5  # live curves, clips, prototypes, neighbours, confusion matrix
    text = "".join(output.get("text", "") for output in outputs)
    assert "raw 8x8x8 pixels" in text and "videos of 3 classes" in text
    assert (tmp_path / "pretrain" / "report.html").is_file()
