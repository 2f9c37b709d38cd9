"""What the documents tell a user to type exists: modules, flags, config files and their arguments, scripts, links."""

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest

from sigma_jax.runtime.config import apply_overrides, load_config, split_command_line

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "launch").glob("*.md")])
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.S | re.M)
DEFAULT_CONFIGS = {"sigma_jax.tools.probe_attentive": "configs/attentive_grid.py"}
FLAG = re.compile(r"--([a-z][a-z0-9_]*)")


def commands(document: Path) -> list[str]:
    """Command lines in fenced blocks, continuation lines joined, comments cut."""
    lines = "\n".join(FENCE.findall(document.read_text())).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if re.match(r"\s*(\S+=\S+ )*(python|\./)", line)]


CASES = [(document.name, command) for document in DOCUMENTS for command in commands(document)]


@functools.cache
def flags_of(module: str, mode: str) -> set[str]:
    """The flags that --help of a command lists; of `sigma_jax.tools.bench` also those of a mode."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        importlib.import_module(module).main([module, mode, "--help"])
    return set(FLAG.findall(told.getvalue()))


def test_the_readme_has_commands():
    assert sum(name == "README.md" for name, _ in CASES) >= 8


@pytest.mark.parametrize("name,command", CASES, ids=[f"{n}:{c[:60]}" for n, c in CASES])
def test_commands_can_be_typed(name, command):
    words = shlex.split(command)
    words = words[next(i for i, word in enumerate(words) if "=" not in word or word.startswith("-")) :]
    if words[0].startswith("./"):
        assert (ROOT / words[0]).exists(), f"{name}: {words[0]} does not exist"
        return
    if words[:2] != ["python", "-m"] or not words[2].startswith(("sigma_jax", "tests")):
        return
    assert importlib.util.find_spec(words[2]), f"{name}: no module {words[2]}"
    words, values = split_command_line(words)
    specs = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    if specs or values:
        apply_overrides(load_config(specs[0] if specs else DEFAULT_CONFIGS[words[2]]), values)
    for word in words[3:]:
        if word.startswith("--"):
            flag = FLAG.match(word)[1]
            mode = words[3] if words[2].endswith(".bench") else ""
            flags = flags_of(words[2], mode)
            assert {flag, flag.removeprefix("no")} & flags, f"{name}: {words[2]} has no --{flag}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which does not exist"


def test_no_message_installs_this_package_from_an_index():
    """It is on none: whoever took its name there would be installed."""
    wrong = [str(path) for path in (ROOT / "sigma_jax").rglob("*.py") if "sigma-jax[" in path.read_text()]
    wrong += [document.name for document in DOCUMENTS if "sigma-jax[" in document.read_text()]
    assert not wrong
