"""Layers import one way only, files stay small, names stay meaningful."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sigma_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

ORDER = (  # each layer may import those of the lines above its own
    ("runtime",),
    ("ops",),
    ("data", "checkpoints", "models"),
    ("datasets", "objective", "weights"),
    ("evals",),
    ("report",),
    ("train",),
    ("tools",),
)
ALLOWED = {
    layer: {lower for above in ORDER[:place] for lower in above} for place, line in enumerate(ORDER) for layer in line
}


def _imported_layers(path: Path) -> set[str]:
    """First-level packages of sigma_jax that a file imports, at any depth of the file."""
    layers = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "sigma_jax" and len(parts) > 1:
                layers.add(parts[1])
    return layers


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers_import_one_way(path):
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return  # main.py and __init__.py may see everything
    layer = parts[0]
    foreign = _imported_layers(path) - ALLOWED[layer] - {layer, "__version__"}
    assert not foreign, f"{layer} may import {sorted(ALLOWED[layer])}, but {path.name} imports {sorted(foreign)}"


def test_ops_knows_no_flax_and_no_config():
    for path in (PACKAGE / "ops").glob("*.py"):
        assert "import flax" not in path.read_text() and "ml_collections" not in path.read_text(), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small_and_named(path):
    assert len(path.read_text().splitlines()) <= 600, f"{path} has more than 600 lines: split it along its concepts"
    assert path.stem not in {"util", "utils", "helper", "helpers", "misc", "common"}, path
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it is about"
