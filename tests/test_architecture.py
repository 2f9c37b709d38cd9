"""Layers import one way only, files stay small, names stay meaningful."""

import ast
import re
from pathlib import Path

import pytest

from sigma_jax.tasks.base import MODULES, Task, task_class

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sigma_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

ORDER = (  # each layer may import those of the lines above its own
    ("runtime",),
    ("ops",),
    ("data", "checkpoints", "models"),
    ("datasets", "objective", "weights"),
    ("evals",),
    ("tasks",),
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
        assert not re.search(r"^\s*(import|from)\s+(flax|ml_collections)\b", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small_and_named(path):
    assert len(path.read_text().splitlines()) <= 600, f"{path} has more than 600 lines: does it hold two ideas?"
    assert path.stem not in {"util", "utils", "helper", "helpers", "misc", "common"}, path
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it is about"


LONG = {"joint_prototype_scalings", "run_stack", "stages", "symmetric_loss", "train_step"}  # CONTRIBUTING.md says why


def test_functions_stay_short():
    functions = [
        node
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert {node.name for node in functions if node.end_lineno - node.lineno >= 50} == LONG


def _uses_of_tasks(tree: ast.AST) -> set[str]:
    """Attributes that are read from anything called `task`: `task.x`, `run.task.x`, `getattr(task, "x")`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            if (isinstance(owner, ast.Name) and owner.id == "task") or (
                isinstance(owner, ast.Attribute) and owner.attr == "task"
            ):
                found.add(node.attr)
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if called in ("getattr", "hasattr", "isinstance") and ast.unparse(node.args[0]).split(".")[-1] == "task":
            found.add(f"{called}()")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_task_is_used_through_its_protocol(path):
    """Outside tasks/ no code asks what kind of task it has, or reads what `Task` does not name."""
    if path.parent.name == "tasks":
        return
    protocol = {name for name in (*dir(Task), *Task.__dataclass_fields__) if not name.startswith("_")}
    foreign = _uses_of_tasks(ast.parse(path.read_text())) - protocol
    assert not foreign, f"{path.name} uses {sorted(foreign)} of a task; the protocol (tasks/base.py) has none of it"


def test_every_task_of_a_config_is_known_and_complete():
    for name in MODULES:
        task = task_class(name)
        assert issubclass(task, Task) and not task.__abstractmethods__, name


READERS_OF_CONFIGS = {  # who turns a config into typed settings; everybody else is given those
    "main.py",
    "runtime/config.py",
    "train/setup.py",
    "weights/huggingface.py",  # the config.json of another program
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_config_ends_in_setup(path):
    """Elsewhere no code names a ConfigDict or is handed one."""
    name = path.relative_to(PACKAGE).as_posix()
    if name in READERS_OF_CONFIGS or name.startswith("tasks/"):
        return
    tree = ast.parse(path.read_text())
    assert "ConfigDict" not in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}, path
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    given = {argument.arg for node in functions for argument in (*node.args.args, *node.args.kwonlyargs)}
    assert not {"config", "configs"} & given, f"{name}: read it in train/setup.py or a task, and pass typed settings"
