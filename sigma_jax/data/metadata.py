"""Files beside the shards of a data set: descriptions for TFDS, the label map, and the report of tools.prepare.

`dataset_info.json` and `features.json` are in the format of tensorflow-datasets, so that
`tfds.builder_from_directory(data_dir)` finds the splits; `label_map.txt` has one class name a line, index = line.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from sigma_jax.data.class_names import spelling
from sigma_jax.data.records import DataSetError
from sigma_jax.runtime.files import replacing

INFO, FEATURES = "dataset_info.json", "features.json"
REPORT, LABEL_MAP = "prepare_report.json", "label_map.txt"
WRITER = "written by sigma_jax.tools.prepare."  # the description of our data sets ends with this
_TENSOR, _TEXT, _SCALAR = (
    f"tensorflow_datasets.core.features.{name}"
    for name in ("tensor_feature.Tensor", "text_feature.Text", "scalar.Scalar")
)
_REPORTED = {  # the entries of prepare_report.json that are read, with their types
    **{"videos": int, "label_hash": str, "refused": list},
    **{"videos_per_class": dict, "payload": dict, "subset": dict},
}
_SEQUENCE = "tensorflow_datasets.core.features.sequence_feature.Sequence"


def write_metadata(
    data_dir: Path, name: str, split: str, lengths: list[int], num_bytes: int, payload: str = "video"
) -> None:
    """Adds one split to dataset_info.json, and writes features.json.

    Args:
      data_dir: folder of the shards.
      name, split: of the data set.
      lengths: records of each shard.
      num_bytes: bytes of all shards together.
      payload: one of payload.PAYLOADS.
    """
    info_path = data_dir / INFO
    read_shard_lengths(data_dir, split)  # raises if the existing file is damaged
    splits = read_json(info_path).get("splits", [])
    entry = {
        "filepathTemplate": "{DATASET}-{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
        "name": split,
        "numBytes": str(num_bytes),
        "shardLengths": [str(n) for n in lengths],
    }
    splits = sorted([s for s in splits if s["name"] != split] + [entry], key=lambda s: s["name"])
    info = {
        "description": f"Videos, one a record, payload `{payload}`; {WRITER}",
        "fileFormat": "tfrecord",
        "name": name,
        "splits": splits,
        "version": "1.0.0",
    }
    write_json(info_path, info)
    features = {"fps": _tensor(_SCALAR, "float32")}
    if payload == "jpeg":
        frames = {"feature": _tensor(_TENSOR, "string"), "length": "-1"}
        features["frames"] = {"pythonClassName": _SEQUENCE, "sequence": frames}
        features |= {name: _tensor(_TENSOR, "string") for name in ("frame_table", "head_crc")}
    else:
        features["video"] = _tensor(_TENSOR, "string")
    features |= {name: _tensor(_SCALAR, "int64") for name in ("label", "num_frames", "height", "width")}
    features |= {name: {"pythonClassName": _TEXT, "text": {}} for name in ("key", "label_name")}
    class_name = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    write_json(data_dir / FEATURES, {"pythonClassName": class_name, "featuresDict": {"features": features}})


def _tensor(class_name: str, dtype: str) -> dict:
    return {"pythonClassName": class_name, "tensor": {"shape": {}, "dtype": dtype, "encoding": "none"}}


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file atomically."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict:
    """The object in a JSON file, {} if there is no file. Raises DataSetError where it is damaged."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict):
            return content
        reason = f"expected an object, got {type(content).__name__}"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise damaged(path, reason)


def damaged(path: Path, reason: str) -> DataSetError:
    """The error to raise for a file beside the shards that cannot be what was written."""
    return DataSetError(f"{path} is damaged ({reason}): copy it again, or delete it and prepare the data again")


def read_shard_lengths(data_dir: Path, split: str) -> list[int]:
    """Records of each shard that dataset_info.json states for a split; [] where it states none.

    Raises:
      DataSetError: it is damaged.
    """
    path = data_dir / INFO
    entries = read_json(path).get("splits", [])
    try:
        lengths = {entry["name"]: [int(text) for text in entry.get("shardLengths", ())] for entry in entries}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise damaged(path, f"splits: {entries!r:.200}") from error
    return lengths.get(split, [])


def read_reports(data_dir: Path) -> dict[str, dict]:
    """The report of `tools.prepare` by split; {} where another program wrote the data set.

    Raises:
      DataSetError: prepare_report.json is damaged.
    """
    reports = read_json(data_dir / REPORT)
    for split, report in reports.items():
        if not isinstance(report, dict) or any(
            not isinstance(report.get(name, kind()), kind) for name, kind in _REPORTED.items()
        ):
            raise damaged(data_dir / REPORT, f"{split}: {report!r:.200}")
    return reports


def label_hash(names: Sequence[str]) -> str:
    """Hash of class names in order, 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def find_contradictions(data_dir: Path, split: str, lengths: Sequence[int]) -> list[str]:
    """Where the shards differ from the files beside them, as sentences: records of each shard, and the label map.

    Only small files are read; a file that does not exist contradicts nothing.

    Args:
      lengths: records of each shard, as found in the shards.

    Raises:
      DataSetError: a file beside the shards is damaged.
    """
    found, count, again = [], sum(lengths), "Copy the shards and this file again, or prepare them again"
    stated, report = read_shard_lengths(data_dir, split), read_reports(data_dir).get(split, {})
    if stated and stated != list(lengths):
        pairs = enumerate(itertools.zip_longest(stated, lengths))
        shard, (promised, kept) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        found.append(
            f"{data_dir / INFO} promises {sum(stated)} records of {split!r} in {len(stated)} shards, there are {count} "
            f"in {len(lengths)}; shard {shard} should have {promised} and has {kept}. {again}"
        )
    promised = report.get("videos", count)
    if promised != count:
        found.append(f"{data_dir / REPORT} promises {promised} records of {split!r}, there are {count}. {again}")
    names, expected = read_label_map(data_dir), report.get("label_hash")
    if expected and expected != label_hash(names):
        state = f"has hash {label_hash(names)}" if names else "is not there"
        found.append(
            f"{data_dir / LABEL_MAP} {state}, but by {REPORT} the classes of {split!r} were numbered by one with "
            f"{expected}: copy both again"
        )
    return found


def check_label(names: Sequence[str], label: int, name: str) -> str:
    """What is wrong with a record's label: its class name must be the one in the label map; "" if it is.

    Args:
      names: the label map, in order; [] if there is none.
      label: number of the class in the record.
      name: name of the class in the record, "" if it states none.
    """
    if not names or not name or not 0 <= label < len(names) or (name.isdecimal() and int(name) == label):
        return ""
    if spelling(names[label]) == spelling(name):
        return ""
    return f"its class {label} is {name!r}, and {names[label]!r} in {LABEL_MAP}"


def problems_of(split: str, report: dict) -> list[str]:
    """Sentences that say why a split is not complete, from its part of prepare_report.json."""
    problems, refused = list(report.get("subset", {}).get("problems", ())), report.get("refused", ())
    if refused:
        total, first = report.get("videos", 0) + len(refused), refused[0]
        problems.append(
            f"{split}: {len(refused)} of {total} videos are missing or unusable, the first: {first['key']}: "
            f"{first['reason']}"
        )
    return problems


def read_problems(data_dir: str | Path, splits: Iterable[str], about: tuple[str, ...] = ()) -> list[str]:
    """The problems of several splits (problems_of); [] for data sets that `tools.prepare` did not write.

    Args:
      splits: names of splits.
      about: only splits whose report has one of these entries (subset, expected_videos); (): all.
    """
    reports = {split: report for split, report in read_reports(Path(data_dir)).items() if split in splits}
    if about:
        reports = {split: report for split, report in reports.items() if any(report.get(name) for name in about)}
    return [problem for split, report in reports.items() for problem in problems_of(split, report)]


def read_label_map(data_dir: Path) -> list[str]:
    """Class names of label_map.txt in order of their index; [] if there is no such file.

    Raises:
      DataSetError: a class without a name.
    """
    path = data_dir / LABEL_MAP
    names = path.read_text("utf-8", "surrogateescape").removesuffix("\n").split("\n") if path.exists() else []
    if "" in names:
        raise DataSetError(f"line {names.index('') + 1} of {path} is empty: every line names the class of its number")
    return names


def write_label_map(data_dir: Path, names: list[str]) -> None:
    """Writes label_map.txt, one class name a line."""
    with replacing(data_dir / LABEL_MAP) as partial:
        partial.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", errors="surrogateescape")
