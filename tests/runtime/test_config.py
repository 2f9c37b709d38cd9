"""Config files, their arguments, typed overrides and readable differences."""

import pytest
from ml_collections import ConfigDict

from sigma_jax.runtime.config import (
    apply_overrides,
    diff_configs,
    load_config,
    parse_arg,
    recorded,
    split_command_line,
)
from sigma_jax.runtime.errors import InvalidValue

CONFIG_FILE = """
from ml_collections import ConfigDict
from sigma_jax.runtime.config import parse_arg

def get_config(arg=None):
    arg = parse_arg(arg, size=("B", "S", "L"), remat=False, depth=4)
    config = ConfigDict({"size": arg.size, "remat": arg.remat, "depth": arg.depth, "total_epochs": 7.0,
                         "grid": (2, 3), "names": (), "limit": None,
                         "optim": {"base_lr": 1.5e-4, "betas": (0.9, 0.95)}})
    return config
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "k400.py").write_text(CONFIG_FILE)
    return tmp_path / "k400.py"


@pytest.fixture
def config(path):
    return load_config(str(path))


def test_load_with_argument(path):
    config = load_config(f"{path}:size=L,remat=true,depth=11")
    assert (config.size, config.remat, config.depth) == ("L", True, 11)
    with pytest.raises((AttributeError, KeyError)):
        config.unknown = 1


def test_unknown_file_names_the_nearest(path):
    with pytest.raises(FileNotFoundError, match="k400.py'"):
        load_config(str(path.with_name("k40.py")))


def test_only_literals(tmp_path):
    (tmp_path / "bad.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': {'b': len}})\n"
    )
    with pytest.raises(TypeError, match="a.b is <built-in"):
        load_config(str(tmp_path / "bad.py"))
    with pytest.raises(ValueError, match="takes no argument"):
        load_config(str(tmp_path / "bad.py") + ":size=S")


@pytest.mark.parametrize("name", ["empty.py", "config.json", "run"])
def test_a_file_without_get_config(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(InvalidValue, match=f"{name} .*get_config"):
        load_config(str(tmp_path / name))


@pytest.mark.parametrize(
    ("arg", "error", "message"),
    [
        ("sise=S", ValueError, "did you mean 'size'"),
        ("size=s", ValueError, "expected one of B, S, L"),
        ("size", ValueError, "key=value"),
        ("size=S,size=L", ValueError, "twice"),
        ("depth=2.5", TypeError, "expected int"),
        ("remat=1", TypeError, "true or false"),
    ],
)
def test_wrong_arguments(arg, error, message):
    with pytest.raises(error, match=message):
        parse_arg(arg, size=("B", "S", "L"), remat=False, depth=4)


def test_override_types(config):
    changed = apply_overrides(
        config,
        {
            "optim.base_lr": "3e-4",
            "optim.betas": "0.8,1",
            "size": "None",
            "remat": "TRUE",
            "depth": "13",
            "grid": "(5,)",
            "limit": "17",
        },
    )
    assert changed.optim.base_lr == 3e-4 and changed.optim.betas == (0.8, 1.0)
    assert changed.size == "None" and changed.remat is True and changed.depth == 13
    assert changed.grid == (5,) and changed.limit == 17 and changed.is_locked
    assert config.optim.base_lr == 1.5e-4 and config.depth == 4, "the original must stay as it was"
    assert isinstance(changed.optim.betas[1], float)
    assert apply_overrides(config, {"limit": "None"}).limit is None
    assert isinstance(apply_overrides(config, {"optim.base_lr": "1"}).optim.base_lr, float)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("optim.base_ir", "1", AttributeError, "did you mean 'optim.base_lr'"),
        ("optim", "1", AttributeError, "did you mean"),
        ("depth", "1.5", TypeError, "got '1.5' .float., expected int"),
        ("depth", "four", TypeError, "got 'four' .str., expected int"),
        ("depth", "None", TypeError, "NoneType.*expected int"),
        ("depth", "true", TypeError, "bool.*expected int"),
        ("remat", "yes", TypeError, "true or false"),
        ("grid", "2,x", TypeError, "expected int"),
        ("total_steps", "2.5", TypeError, "expected int"),
        ("warmup_steps", "2", AttributeError, "unknown"),
    ],
)
def test_wrong_overrides(config, name, text, error, message):
    with pytest.raises(error, match=message):
        apply_overrides(config, {name: text})


def test_duration_changes_its_unit(config):
    changed = apply_overrides(config, {"total_steps": "23"})
    assert changed.total_steps == 23 and changed.total_epochs is None
    assert apply_overrides(changed, {"total_epochs": "3"}).total_steps is None
    with pytest.raises(ValueError, match="total_steps and --config.total_epochs"):
        apply_overrides(config, {"total_steps": "23", "total_epochs": "2"})


def test_split_command_line():
    argv = ["main", "--workdir=w", "--config=k.py:size=S", "--config.a.b=1=2", "--config.c", "-3", "--", "--config.d=1"]
    rest, overrides = split_command_line(argv)
    assert rest == ["main", "--workdir=w", "--config=k.py:size=S", "--", "--config.d=1"]
    assert overrides == {"a.b": "1=2", "c": "-3"}
    for wrong in (["--config.a"], ["--config.a", "--workdir=w"]):
        with pytest.raises(ValueError, match="--config.a has no value"):
            split_command_line(wrong)
    with pytest.raises(ValueError, match="twice"):
        split_command_line(["--config.a=1", "--config.a=2"])


def test_differences_survive_json(config):
    stored = recorded(config)
    assert diff_configs(stored, config) == []
    changed = apply_overrides(config, {"optim.base_lr": "1e-3", "grid": "2,5"})
    assert diff_configs(stored, changed) == ["grid: (2, 3) -> (2, 5)", "optim.base_lr: 0.00015 -> 0.001"]
    in_fp8 = {"compute": {"teacher_dtype": "float8_e4m3fn"}}
    assert diff_configs({}, {"compute": {"teacher_dtype": "auto"}}) == []  # what configs without it did
    assert diff_configs({}, in_fp8) == ["compute.teacher_dtype: 'auto' -> 'float8_e4m3fn'"]
    assert diff_configs({"a": 1}, ConfigDict({"b": "x"})) == ["a: 1 -> (absent)", "b: (absent) -> 'x'"]
