"""Sidecars of a data set: what TFDS needs to open our shards, and the label map.

`dataset_info.json` and `features.json` are in the format of tensorflow-datasets, so that
`tfds.builder_from_directory(data_dir)` finds the splits; `label_map.txt` has one class name a line, index = line.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from sigma_jax.data.records import DataSetError
from sigma_jax.runtime.files import replacing

_TENSOR, _TEXT, _SCALAR = (
    f"tensorflow_datasets.core.features.{name}"
    for name in ("tensor_feature.Tensor", "text_feature.Text", "scalar.Scalar")
)
_SEQUENCE = "tensorflow_datasets.core.features.sequence_feature.Sequence"


def write_metadata(
    data_dir: Path, name: str, split: str, lengths: list[int], num_bytes: int, payload: str = "video"
) -> None:
    """Adds one split (records per shard, bytes of all shards) to dataset_info.json; writes features.json.

    `payload` is one of payload.PAYLOADS.
    """
    info_path = data_dir / "dataset_info.json"
    splits = read_json(info_path).get("splits", [])
    entry = {
        "filepathTemplate": "{DATASET}-{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
        "name": split,
        "numBytes": str(num_bytes),
        "shardLengths": [str(n) for n in lengths],
    }
    splits = sorted([s for s in splits if s["name"] != split] + [entry], key=lambda s: s["name"])
    info = {
        "description": f"Videos, one a record, payload `{payload}`; written by sigma_jax.tools.prepare.",
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
    write_json(data_dir / "features.json", {"pythonClassName": class_name, "featuresDict": {"features": features}})


def _tensor(class_name: str, dtype: str) -> dict:
    return {"pythonClassName": class_name, "tensor": {"shape": {}, "dtype": dtype, "encoding": "none"}}


def write_json(path: Path, content: dict) -> None:
    """Writes a file that is either there completely or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict:
    """The content of a file, empty where there is none. Raises DataSetError where it is damaged."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
        reason = f"expected an object, got {type(content).__name__}"
    except ValueError as error:
        reason = str(error)
    raise DataSetError(f"{path} is damaged ({reason}): copy it again, or delete it and prepare again")


def problems_of(split: str, report: dict) -> list[str]:
    """What keeps a split from being the whole of its list, given its part of prepare_report.json; sentences."""
    problems, refused = list(report.get("subset", {}).get("problems", ())), report.get("refused", ())
    if refused:
        total, first = report.get("videos", 0) + len(refused), refused[0]
        problems.append(
            f"{split}: {len(refused)} of {total} videos are missing or of no use, the first: {first['key']}: "
            f"{first['reason']}"
        )
    return problems


def read_problems(data_dir: Path, splits: Iterable[str]) -> list[str]:
    """problems_of for these splits of a data set that `tools.prepare` wrote; [] for those of others."""
    report = read_json(data_dir / "prepare_report.json")
    return [problem for split in splits for problem in problems_of(split, report.get(split, {}))]


def read_label_map(data_dir: Path) -> list[str]:
    """Class names in order of their index; empty where the data set has none."""
    path = data_dir / "label_map.txt"
    return path.read_text("utf-8", errors="surrogateescape").splitlines() if path.exists() else []


def write_label_map(data_dir: Path, names: list[str]) -> None:
    """Writes one class name a line."""
    with replacing(data_dir / "label_map.txt") as partial:
        partial.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", errors="surrogateescape")
