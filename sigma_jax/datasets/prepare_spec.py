"""The settings of tools.prepare, which are checked before anything is read."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from sigma_jax.datasets.list_formats import FOLDER_FORMATS, FORMATS
from sigma_jax.datasets.listing import LAYOUTS
from sigma_jax.datasets.numbering import LABELS_ARE, LabelSource
from sigma_jax.datasets.payload import Payload
from sigma_jax.runtime.errors import InvalidValue

MAX_REFUSED = 0.4  # share of the videos; copies of public data sets lack fewer, a list that was misread lacks more


@dataclass(frozen=True)
class PrepareSpec:
    """What is prepared, and how; each field is the flag of the same name."""

    out: Path
    videos: Path | None = None  # folder; with a list: what its paths are relative to (None: the list's own folder)
    csv: Path | None = None  # a list, in the format `format` (one of list_formats.FORMATS)
    format: str = "csv"
    labels: Path | None = None  # file with the class names, in order
    labels_are: str = "auto"  # one of LABELS_ARE: what the labels of a list are
    layout: str = "auto"  # one of listing.LAYOUTS: what the folders are
    payload: Payload = field(default_factory=Payload)
    subset: str = ""  # part of a released list, one of subsets.SUBSETS
    name: str = "videos"
    split: str = ""  # the only one that is prepared; empty: all that folders or list say, or `train`
    val_fraction: float = 0.0  # share of the videos put into a split `val`
    max_refused: float = MAX_REFUSED  # share of the videos
    shards: int = 0  # per split, 0: by size
    workers: int = 0  # worker processes; 0: this process reads
    timeout: float = 300.0  # seconds for one video
    runner: str = "local"  # or one of Apache Beam
    beam_options: str = ""

    def __post_init__(self):
        if not self.videos and not self.csv:
            raise InvalidValue("expected --videos=FOLDER or --csv=FILE")
        if not self.folder.is_dir():
            raise InvalidValue(f"--videos={self.folder} is no folder")
        if not all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in (self.name, self.split or "train")):
            raise InvalidValue(f"--name={self.name} and --split={self.split} must be lower-case letters, digits and _")
        if not 0 <= self.val_fraction < 1 or (self.val_fraction and self.split == "val"):
            raise InvalidValue(f"--val_fraction={self.val_fraction} must be in [0, 1), and --split another than val")
        if not 0 <= self.max_refused <= 1:
            raise InvalidValue(f"--max_refused={self.max_refused} must be in [0, 1]: a share of the videos")
        if self.beam_options and self.runner == "local":
            raise InvalidValue(
                f"--beam_options={self.beam_options} needs a --runner of Apache Beam, such as DirectRunner"
            )
        if self.shards < 0 or self.workers < 0 or self.timeout <= 0:
            given = f"--shards={self.shards}, --workers={self.workers}, --timeout={self.timeout}"
            raise InvalidValue(f"{given} must be positive")
        if self.subset and (not self.csv or self.val_fraction):
            raise InvalidValue(
                f"--subset={self.subset} is a part of a released list: give --csv, and no --val_fraction"
            )
        if self.csv and self.layout != "auto":
            raise InvalidValue(f"--layout={self.layout} says what the folders are: leave it out with --csv")
        for flag, path in (("csv", self.csv), ("labels", self.labels)):
            if path and not (path.is_file() or (path.is_dir() and self.format in FOLDER_FORMATS)):
                raise InvalidValue(f"--{flag}={path} is no file")
        for flag, known in (("layout", LAYOUTS), ("labels_are", LABELS_ARE), ("format", sorted(FORMATS))):
            if getattr(self, flag) not in known:
                raise InvalidValue(f"--{flag}={getattr(self, flag)} is unknown, expected one of {known}")

    @property
    def folder(self) -> Path:
        """The folder of the videos."""
        return self.videos or self.csv.parent

    @property
    def origin(self) -> Path:
        """What the videos are taken from: the list, or the folder."""
        return self.csv or self.folder

    @property
    def label_source(self) -> LabelSource:
        """Where the labels are taken from."""
        return LabelSource(self.out, self.name, self.origin, self.csv is not None, self.labels, self.labels_are)
