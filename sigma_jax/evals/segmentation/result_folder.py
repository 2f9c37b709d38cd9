"""The result folder of a benchmark on a whole set, from which an interrupted measurement continues clip by clip.

OUT/settings.json              the settings that determine the numbers; other settings are refused
OUT/clips/<seed>/<clip>.json   scores of a finished clip, or why it was left out
OUT/tokens/                    features of the current batch, deleted when it is finished
OUT/predictions/<clip>/*.png   propagated masks, as the official evaluation reads them
OUT/result.json                all results, written when all clips are finished
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sigma_jax.evals.segmentation.layouts import BadSequence, Note
from sigma_jax.runtime.config import diff_configs
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.files import replacing


class ResultFolder:
    """The files of a measurement; each gets its name when it is complete."""

    def __init__(self, out: str | Path, made_of: Mapping[str, Any]):
        """Opens or creates the folder.

        Args:
          out: path.
          made_of: the settings, JSON.

        Raises:
          InvalidValue: it holds results of other settings, or cannot be written.
        """
        self.out = Path(out)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            path = self.out / "settings.json"
            if path.exists():
                self._compare(json.loads(path.read_text()), json.loads(json.dumps(made_of)))
            self.write("settings.json", made_of)
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InvalidValue(f"results cannot be written to {self.out} ({error}): choose another --out") from error

    def _compare(self, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        if differing := diff_configs(there, now):
            raise InvalidValue(
                f"{self.out} holds results of other settings ({'; '.join(differing)}): choose another --out"
            )

    def write(self, name: str, content: Mapping[str, Any]) -> Path:
        """Writes OUT/name as JSON."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n")
        return path

    def clip(self, name: str, seed: int = 0) -> dict[str, Any] | None:
        """The stored content of a clip; None if it is not finished."""
        path = self.out / self._place(name, seed)
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InvalidValue(f"{path} is damaged ({error}): delete it, and the clip is measured again") from error

    def finish(self, name: str, content: Mapping[str, Any], seed: int = 0) -> None:
        """Stores the scores of a clip."""
        self.write(self._place(name, seed), content)

    def leave_out(self, name: str, error: BadSequence, seed: int = 0) -> None:
        """Stores the reason why a clip has no scores."""
        self.finish(name, {"left_out": error.kind, "reason": str(error)}, seed)

    @staticmethod
    def _place(name: str, seed: int) -> str:
        return f"clips/{seed}/{name}.json"

    def tokens(self, name: str, seed: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Features of a clip, read from disk if an interrupted measurement has stored them."""
        path = self.out / "tokens" / f"{seed}-{name}.npy"
        if path.exists():
            try:
                return np.load(path)
            except (ValueError, EOFError):
                path.unlink()
        tokens = compute()
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial, open(partial, "wb") as file:
            np.save(file, tokens)
        return tokens

    def drop_tokens(self) -> None:
        """Deletes the stored features of a finished batch."""
        shutil.rmtree(self.out / "tokens", ignore_errors=True)


def check_any(clips: Mapping, left_out: Sequence[Note]) -> None:
    if not clips:
        why = f"; the first of {len(left_out)}: {left_out[0].sentence}" if left_out else ""
        raise InvalidValue(f"no clip could be measured{why}")


def remarks(left_out: Sequence[Note], notes: Sequence[Note]) -> dict[str, Any]:
    """The part of a result about left-out and unusual clips, with the number of each kind."""
    counts = Counter([f"left out: {note.kind}" for note in left_out] + [note.kind for note in notes])
    return {
        "complete": not left_out,
        "left_out": [{"clip": note.sequence, "reason": note.sentence} for note in left_out],
        "notes": [note.sentence for note in notes],
        "counts": dict(counts),
    }
