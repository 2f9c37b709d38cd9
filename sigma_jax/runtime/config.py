"""Config files: `configs/k400.py:size=S,target=dino` -> a locked ConfigDict, and typed overrides of single values.

A config file is a recipe card: `get_config(arg)` returns an `ml_collections.ConfigDict` of literals (int, float, bool,
str, None, and tuples of these). Values are changed with `--config.optim.base_lr=3e-4`; the rules for types are those of
`apply_overrides`. (ml_collections.config_flags can neither change the unit of a duration nor set a field that is None.)
"""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from sigma_jax.runtime.durations import UNITS, Duration, read_duration
from sigma_jax.runtime.errors import InvalidType, InvalidValue, NotThere, UnknownName

Settings = TypeVar("Settings")
PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parent
LITERALS = (int, float, bool, str, type(None))
Value = int | float | bool | str | None | tuple


def load_config(spec: str) -> ConfigDict:
    """Run `get_config(arg)` of the file in `path[:arg]`; the result is locked (no new names).

    A relative path is looked up from the current folder, then among the shipped ones, so that a variant can start with
    `config = load_config("configs/k400.py:size=S").unlock()`. Raises FileNotFoundError with the nearest file name,
    TypeError for a value that is not a literal, ValueError for a wrong `arg`.
    """
    name, _, arg = spec.partition(":")
    path = _find_file(name)
    if path.suffix != ".py":
        raise InvalidValue(f"{path} is no config: expected a Python file with a get_config(arg) function, such as x.py")
    module_spec = importlib.util.spec_from_file_location(f"sigma_jax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InvalidValue(f"{path} has no get_config(arg) function: a config file must define one")
    takes_arg = bool(inspect.signature(module.get_config).parameters)
    if arg and not takes_arg:
        raise InvalidValue(f"{path.name} takes no argument after ':', got {arg!r}")
    config = module.get_config(arg) if takes_arg else module.get_config()
    for field, value in values_of(config):
        items = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(item, LITERALS) for item in items):
            raise InvalidType(f"{path.name}: {field} is {value!r} ({type(value).__name__}), expected a literal")
    return config.lock()


def shipped(name: str) -> Path:
    """A file or folder that lies beside the package in a checkout, and inside it where it was installed (setup.py)."""
    inside = PACKAGE / name
    return inside if inside.exists() else REPOSITORY / name


def _find_file(name: str) -> Path:
    for path in (Path(name), shipped(name)):
        if path.is_file():
            return path.resolve()
    wanted = Path(name)
    folder = next(
        (f for f in (wanted.parent, shipped(str(wanted.parent))) if wanted.parent.name and f.is_dir()),
        shipped("configs"),
    )
    existing = [f"{folder.name}/{path.name}" for path in sorted(folder.glob("*.py"))]
    nearest = _nearest(f"{folder.name}/{wanted.stem}.py", existing)
    raise NotThere(f"no config file {name!r}; {nearest} (there are: {', '.join(existing) or 'none'})")


def _nearest(name: str, valid: list[str]) -> str:
    found = difflib.get_close_matches(name, valid, n=1, cutoff=0.0)
    return f"did you mean {found[0]!r}?" if found else "there is nothing to choose from"


def parse_arg(arg: str | None, **defaults: Value) -> ConfigDict:
    """Turn `size=S,remat=true` into values with the types of `defaults`; for use inside config files.

    A tuple as default lists the allowed choices, the first being the default. Booleans are written true or false.
    Raises ValueError for an unknown key, a repeated key or a wrong value, naming the nearest valid one.
    """
    values = {key: default[0] if isinstance(default, tuple) else default for key, default in defaults.items()}
    seen = set()
    for part in filter(None, (arg or "").split(",")):
        key, equals, text = part.partition("=")
        if not equals:
            raise InvalidValue(f"config argument {part!r}: expected key=value, with keys {', '.join(defaults)}")
        if key not in defaults:
            raise InvalidValue(f"config argument {key!r} is unknown; {_nearest(key, list(defaults))}")
        if key in seen:
            raise InvalidValue(f"config argument {key!r} is given twice")
        seen.add(key)
        values[key] = _parse(text, values[key], f"config argument {key}")
        choices = defaults[key]
        if isinstance(choices, tuple) and values[key] not in choices:
            allowed = ", ".join(map(str, choices))
            nearest = _nearest(text, [str(choice) for choice in choices])
            raise InvalidValue(f"config argument {key}: got {text!r}, expected one of {allowed}; {nearest}")
    return ConfigDict(values).lock()


def apply_overrides(config: ConfigDict, overrides: Mapping[str, str]) -> ConfigDict:
    """Return a locked copy of `config` with values replaced: `{"optim.base_lr": "3e-4"}`.

    The type is that of the value in the config: int takes whole numbers, float any number, bool true or false, str the
    text as it is, a tuple a comma list (`2,3`) of its own element type. A field that the config file sets to None takes
    any literal (else the text), and only such a field takes None. A duration may change its unit: `total_steps=20`
    replaces `total_epochs`. Raises AttributeError for an unknown name (with the nearest one), TypeError for a wrong
    type, ValueError for one duration in two units.
    """
    result = ConfigDict(config.to_dict())
    given: dict[str, str] = {}
    for name, text in overrides.items():
        known = dict(values_of(result))
        stem, _, unit = name.rpartition("_")
        others = [f"{stem}_{other}" for other in UNITS if other != unit] if unit in UNITS else []
        if others and given.setdefault(stem, name) != name:
            raise InvalidValue(f"--config.{given[stem]} and --config.{name} set one duration twice: give one of them")
        replaced = [other for other in others if other in known]
        if name not in known and not replaced:
            raise UnknownName(f"--config.{name} is unknown; {_nearest(name, list(known))}")
        current = known.get(name)
        if current is None and others and text.lower() != "none":
            current = 0 if unit == "steps" else 0.0
        _assign(result, name, _parse(text, current, f"--config.{name}"))
        for other in replaced:
            _assign(result, other, None)
    return result.lock()


def _assign(config: ConfigDict, name: str, value: Value) -> None:
    *parents, leaf = name.split(".")
    for parent in parents:
        config = config[parent]
    with config.unlocked(), config.ignore_type():
        config[leaf] = value


def _parse(text: str, current: Value, where: str) -> Value:
    """`text` as a value of the type of `current`; raises TypeError with what was got and expected."""
    if current is None:
        return None if text.lower() == "none" else _literal(text)
    if isinstance(current, str):
        return text
    if isinstance(current, tuple):
        inner = text.strip().removeprefix("(").removesuffix(")")
        parts = [part.strip() for part in inner.split(",") if part.strip()]
        return tuple(_parse(part, current[0] if current else None, where) for part in parts)
    value = {"true": True, "false": False}.get(text.lower(), _literal(text))
    kind = type(current)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        hint = " (true or false)" if kind is bool else ""
        raise InvalidType(f"{where}: got {text!r} ({type(value).__name__}), expected {kind.__name__}{hint}")
    return value


def _literal(text: str) -> Value:
    """The Python literal in `text`, or the text itself."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return tuple(value) if isinstance(value, list) else value


def split_command_line(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take `--config.x.y=value` and `--config.x.y value` out of `argv`; returns (the rest, {"x.y": "value"}).

    Raises ValueError for an override without a value or given twice.
    """
    rest, overrides = [], {}
    words = iter(argv)
    for word in words:
        if word == "--":
            return [*rest, word, *words], overrides
        if not word.startswith("--config."):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise InvalidValue(f"{word} has no value: write {word}=VALUE")
        if name in overrides:
            raise InvalidValue(f"--config.{name} is given twice: {overrides[name]!r} and {value!r}")
        overrides[name] = value
    return rest, overrides


def values_of(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf, in the order of the config."""
    for key in config:
        value = config[key]
        if isinstance(value, (Mapping, ConfigDict)):
            yield from values_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read_section(kind: type[Settings], section: ConfigDict, **given: Any) -> Settings:
    """A frozen dataclass of settings from the section of a config whose values have the names of its fields.

    A field of type `Duration` is read in whatever unit the section gives it (`every_epochs`). Fields that the section
    lacks (as in the recorded config of an older run) keep their defaults.

    Args:
      given: values of fields that are not simply read; they win.

    Raises:
      UnknownName: a value without default is missing.
    """
    values = dict(given)
    for field in dataclasses.fields(kind):
        if field.name in given:
            continue
        if field.type is Duration:
            values[field.name] = read_duration(section, field.name)
        elif field.name in section:
            values[field.name] = section[field.name]
        elif field.default is dataclasses.MISSING:
            raise UnknownName(f"the config has no {field.name!r} among {', '.join(section)}")
    return kind(**values)


def recorded(config: ConfigDict) -> dict[str, Any]:
    """The config as it is written down (JSON: lists for tuples); `diff_configs` compares either form."""
    return json.loads(json.dumps(config.to_dict()))


# Settings that configs of older versions lack, and the value that tells what they did.
ADDED = {"compute.teacher_dtype": "auto"}


def diff_configs(old: Mapping[str, Any] | ConfigDict, new: Mapping[str, Any] | ConfigDict) -> list[str]:
    """Readable lines `name: old -> new`, one per differing leaf, sorted by name; either side may come from JSON.

    A side that lacks a setting of ADDED has its value there.
    """
    olds, news = (ADDED | {k: _tupled(v) for k, v in values_of(side)} for side in (old, new))
    lines = []
    for name in sorted(olds.keys() | news.keys()):
        before, after = (repr(side[name]) if name in side else "(absent)" for side in (olds, news))
        if before != after:
            lines.append(f"{name}: {before} -> {after}")
    return lines


def _tupled(value: Value) -> Value:
    return tuple(_tupled(item) for item in value) if isinstance(value, (list, tuple)) else value


def load_json(path: str | Path) -> ConfigDict:
    """The `recorded` config of a run's folder; lists become tuples.

    Raises:
      NotThere, InvalidValue: there is no such file, or it is no config; says where a run keeps it.
    """

    def tupled(tree: dict[str, Any]) -> dict[str, Any]:
        return {key: tupled(value) if isinstance(value, dict) else _tupled(value) for key, value in tree.items()}

    try:
        return ConfigDict(tupled(json.loads(Path(path).read_text()))).lock()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotThere(f"{path} does not exist: expected the folder of a run, which sigma_jax.main writes") from error
    except (ValueError, AttributeError) as error:
        raise InvalidValue(f"{path} is no config of a run ({error}): start the run's command again") from error
