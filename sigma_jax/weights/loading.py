"""The strict loader: puts weights into a model's parameters, all of them, or raises an error that lists the others."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from sigma_jax.weights.torch_weights import torch_names
from sigma_jax.weights.weights_file import Weights, WeightsMismatch, flatten

LOGGER = logging.getLogger("absl")
LISTED = 12  # names per list in a message


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What was loaded; arrays are named by our parameter paths.

    Attributes:
      source: the file.
      loaded: arrays that were taken from the file.
      missing, unexpected, other_shape: arrays that do not fit, as the caller allowed; others are an error.
      num_loaded, num_total: numbers (not arrays) taken from the file, and of the model.
      digest: of the file's content.
      notes: sentences about the weights.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_shape: tuple[str, ...]
    num_loaded: int
    num_total: int
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Share of the model's numbers that come from the file, in [0, 1]."""
        return self.num_loaded / max(self.num_total, 1)

    def lines(self) -> list[str]:
        """The report in words."""
        lines = [
            f"{self.source}: {len(self.loaded)} arrays loaded, {self.num_loaded:,} of {self.num_total:,} parameters "
            f"({100 * self.fraction:.1f} %), content {self.digest}"
        ]
        lists = {
            "missing, fresh values kept": self.missing,
            "other shape, fresh values kept": self.other_shape,
            "in the file, not used": self.unexpected,
        }
        lines += [f"  {what}: {', '.join(names)}" for what, names in lists.items() if names]
        return lines + [f"  note: {note}" for note in self.notes]


class Allowed(NamedTuple):
    """Differences between a file and a model that are accepted, and how to allow others.

    missing: names ('head', 'decoder/blocks') of parts that may be missing in the file, or have another shape; the model
    keeps its own values there. unexpected: names of parts of the file that may be unused. advice: what a user of the
    running command can do about weights that do not fit.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    advice: str = ""


NOTHING = Allowed()


def fit(weights: Weights, wanted: dict, allowed: Allowed = NOTHING) -> tuple[dict[str, np.ndarray], LoadReport]:
    """Selects the arrays of `weights` that belong to a model.

    Args:
      weights: the weights.
      wanted: the model's parameters or their shapes, nested dicts.
      allowed: differences that are accepted.

    Returns:
      float32 arrays by path, and the report.

    Raises:
      WeightsMismatch: arrays are missing, unexpected, of another shape or not finite; the message lists them.
    """
    found, target = flatten(weights.params), flatten(wanted)
    known = sorted({path.split("/")[0] for path in target})
    for name in allowed.missing:
        if not any(_covers(name, path) for path in target):
            raise WeightsMismatch(f"--allow_missing={name}: the model has no such part, only {', '.join(known)}, ...")
    names = torch_names(weights.kind)

    def called(path: str) -> str:
        return f"{path} ({names[path]})" if path in names and names[path] != path.replace("/", ".") else path

    def shapes(path: str) -> str:
        return f"{called(path)}: file {tuple(found[path].shape)}, model {tuple(target[path].shape)}"

    both = sorted(found.keys() & target.keys())
    differing = {
        "missing": {path: called(path) for path in sorted(target.keys() - found.keys())},
        "unexpected": {path: called(path) for path in sorted(found.keys() - target.keys())},
        "other shape": {path: shapes(path) for path in both if found[path].shape != tuple(target[path].shape)},
        "not finite": {path: called(path) for path in both if not np.isfinite(found[path]).all()},
    }
    loaded = {path: found[path] for path in both if path not in differing["other shape"]}
    _refuse(weights, differing, f"{len(loaded)} of {len(target)} arrays fit", allowed)
    report = LoadReport(
        source=weights.source,
        loaded=tuple(loaded),
        missing=tuple(differing["missing"]),
        unexpected=tuple(differing["unexpected"]),
        other_shape=tuple(differing["other shape"].values()),
        num_loaded=sum(array.size for array in loaded.values()),
        num_total=sum(int(np.prod(leaf.shape)) for leaf in target.values()),
        digest=weights.digest(),
        notes=weights.notes,
    )
    return loaded, report


def _refuse(weights: Weights, differing: Mapping[str, Mapping[str, str]], verdict: str, allowed: Allowed) -> None:
    """Raises WeightsMismatch for differences (kind: {path: what is said of it}) that are not allowed."""
    accepted = {"missing": allowed.missing, "other shape": allowed.missing, "unexpected": allowed.unexpected}
    lines = []
    for kind, paths in differing.items():
        refused = [told for path, told in paths.items() if not _covered(path, accepted.get(kind, ()))]
        if refused:
            lines.append(f"  {kind}: {_listed(refused)}")
    if lines:
        advice = [f"  {allowed.advice}"] if allowed.advice else []
        raise WeightsMismatch("\n".join([f"{weights.source} does not fit the model: {verdict}.", *lines, *advice]))


def load_into(weights: Weights, fresh: dict, allowed: Allowed = NOTHING) -> tuple[dict, LoadReport]:
    """Replaces the arrays of `fresh` (nested dicts of JAX or NumPy arrays) by those of `weights`; see `fit`.

    jax.Arrays keep their type and sharding; parts that are missing, as allowed, keep their values.
    """
    loaded, report = fit(weights, fresh, allowed)
    return _replaced(fresh, lambda path, leaf: _like(loaded[path], leaf) if path in loaded else leaf), report


def say(report: LoadReport) -> None:
    """Logs the report."""
    for line in report.lines():
        LOGGER.info("weights: %s", line)


def names_in(text: str | None) -> tuple[str, ...]:
    """The names in a list such as 'head,decoder/blocks'."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _replaced(tree: dict, leaf_of: Callable[[str, Any], Any], prefix: str = "") -> dict:
    return {
        name: _replaced(value, leaf_of, f"{prefix}{name}/")
        if isinstance(value, dict)
        else leaf_of(prefix + name, value)
        for name, value in tree.items()
    }


def _like(array: np.ndarray, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        array = np.ascontiguousarray(array, leaf.dtype)
        return jax.make_array_from_callback(array.shape, leaf.sharding, lambda index: array[index])
    return array


def _covers(name: str, path: str) -> bool:
    return path == name or path.startswith(f"{name}/")


def _covered(path: str, allowed: Iterable[str]) -> bool:
    return any(_covers(name, path) for name in allowed)


def _listed(paths: list[str]) -> str:
    more = f", and {len(paths) - LISTED} more" if len(paths) > LISTED else ""
    return ", ".join(paths[:LISTED]) + more
