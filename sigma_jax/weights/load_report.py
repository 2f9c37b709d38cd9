"""What was loaded from a weights file: four lists, the fraction of the parameters, a hash of what the file holds."""

import dataclasses
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Names are our parameter paths.

    `missing`, `unexpected` and `other_shape` hold only what the caller allowed: anything else is an error before a
    report exists.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_shape: tuple[str, ...]
    num_loaded: int  # numbers, not arrays
    num_total: int
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Part of the model's numbers that come from the file, in [0, 1]."""
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


def content_digest(flat: dict[str, np.ndarray]) -> str:
    """16 hexadecimal digits of SHA-256 over names, shapes and bits of 'a/b/c' -> array; the same in every format."""
    digest = hashlib.sha256()
    for name in sorted(flat):
        array = np.ascontiguousarray(flat[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()[:16]
