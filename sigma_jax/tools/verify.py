"""Checks shards: is everything there, whole, and usable? Exit code 0 only if all is well.

  python -m sigma_jax.tools.verify --data_dir=DIR [--split=train] [--full] [--dataset=k400]

Every record is read, both checksums, the schema and the label are checked, and the index is made anew and compared. A
sample of the videos is decoded to the end, with --full all of them. Sets of tensorflow-datasets are checked likewise;
array_record files hold an index and checksums of their own. Against the expected number of videos of a known data set
(data/specs.py; by the name of the shards, or --dataset) missing ones are told; they alone are no error.
"""

import argparse
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sigma_jax.data import metadata, records, tfds_sets
from sigma_jax.data.classes import check_names
from sigma_jax.data.clips import decode_record
from sigma_jax.data.decode import BadVideo, probe
from sigma_jax.data.pipeline import open_source
from sigma_jax.data.schema import Record
from sigma_jax.data.specs import expected_videos

_SAMPLE = 32  # videos decoded without --full
_SHOWN = 20  # problems printed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--split", help="default: every split that is there")
    parser.add_argument("--full", action="store_true", help="decode all videos")
    parser.add_argument("--dataset", default="", help="name in data/specs.py; default: the name of the shards")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; 0: none")
    args = parser.parse_args(argv)
    try:
        splits = [args.split] if args.split else _splits(args.data_dir)
        reports = [verify_split(args, split) for split in splits]
    except (records.DataSetError, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 1
    if not all(reports):
        print("FAILED: copy or prepare the shards again")
        return 1
    print("all is well")
    return 0


def _splits(data_dir: Path) -> list[str]:
    return tfds_sets.array_record_splits(data_dir) or records.find_splits(data_dir)


def verify_split(args: argparse.Namespace, split: str) -> bool:
    """Checks and prints one split; False where something is wrong.

    Raises DataSetError where its shards or their index are not in order as a whole.
    """
    source = open_source(args.data_dir, split)
    names = metadata.read_label_map(args.data_dir) or tfds_sets.class_names(args.data_dir)
    num_classes = len(names) or tfds_sets.num_classes(args.data_dir)
    ranked = sorted(range(len(source)), key=lambda i: hashlib.sha256(b"%d" % i).digest())
    decoded = set(ranked if args.full else ranked[:_SAMPLE])
    problems, classes, keys = _index_problems(source), Counter(), Counter()
    check = partial(check_record, source, num_classes, decoded)
    for key, label, reason in tqdm(
        _run(check, len(source), args.workers), total=len(source), unit="video", disable=not sys.stderr.isatty()
    ):
        if reason:
            problems.append(reason)
            continue
        classes[label] += 1
        keys[key] += 1
    problems += [f"{key!r} is there {count} times" for key, count in keys.items() if key and count > 1]
    problems += _metadata_problems(args.data_dir, split, len(source))
    name = args.dataset or re.sub(r"-.*", "", source.shards[0].name)
    if names:
        try:
            check_names(name, names, "label_map.txt")
        except records.DataSetError as error:
            problems.append(str(error))
    _print(split, source, problems, classes, len(decoded), expected_videos(name, split))
    return not problems


def check_record(
    source: records.RecordSource | tfds_sets.ArrayRecords, num_classes: int, decoded: set[int], index: int
) -> tuple:
    """(key, label, what is wrong or empty) of one record."""
    shard, number = source.locate(index)
    place = f"{source.shards[shard].name}, record {number}"
    try:
        record = source.read_whole(index) if isinstance(source, records.RecordSource) else source[index]
    except records.BadRecord as error:
        return "", -1, str(error)
    if record.label < -1 or (num_classes and record.label >= num_classes):
        return (
            record.key,
            record.label,
            f"{place} ({record.key}): label {record.label}, there are {num_classes} classes",
        )
    if (
        record.frames
        and isinstance(source, records.RecordSource)
        and source[index].frames is not None
        and tuple(source[index].frames) != tuple(record.frames)
    ):
        return record.key, record.label, f"{place} ({record.key}): its table of frames leads to other frames"
    if index in decoded:
        try:
            _decode_whole(record)
        except BadVideo as error:
            return record.key, record.label, f"{place} ({record.key}): {error}"
    return record.key, record.label, ""


def _decode_whole(record: Record) -> None:
    """Raises BadVideo unless everything can be decoded and is what the record says."""
    if record.frames:
        height, width = decode_record(record, np.arange(len(record.frames))).shape[1:3]
        found = len(record.frames), height, width
    else:
        info = probe(record.video)
        found = info.num_frames, info.height, info.width
    stated = record.num_frames, record.height, record.width
    if any(a and a != b for a, b in zip(stated, found, strict=True)):  # 0: not stated
        raise BadVideo(f"frames, height and width are {found}, the record says {stated}")


def _run(check, count: int, workers: int) -> Iterator[tuple]:
    if workers == 0 or count < 64:
        yield from map(check, range(count))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(check, range(count), chunksize=16)


def _index_problems(source: records.RecordSource | tfds_sets.ArrayRecords) -> list[str]:
    """The index against the shards; array_record files hold their own."""
    problems = []
    if not isinstance(source, records.RecordSource):
        return problems
    for shard, path in enumerate(source.shards):
        start, end = source.locate_shard(shard)
        try:
            if not np.array_equal(records.scan_offsets(path), source.offsets[start:end]):
                problems.append(f"{path.name}: its records lie elsewhere than the index says; delete the index")
        except records.BadRecord as error:
            problems.append(str(error))
    return problems


def _metadata_problems(data_dir: Path, split: str, count: int) -> list[str]:
    for entry in metadata.read_json(data_dir / "dataset_info.json").get("splits", []):
        stated = sum(map(int, entry["shardLengths"]))
        if entry["name"] == split and stated != count:
            return [f"dataset_info.json states {stated} records, there are {count}"]
    return []


def _print(split: str, source, problems: list[str], classes: Counter, decoded: int, expected: int) -> None:
    good, labelled = sum(classes.values()), {label for label in classes if label >= 0}
    size = sum(path.stat().st_size for path in source.shards)
    print(f"{split}: {good} good of {len(source)} records in {len(source.shards)} shards, {size / 2**20:.1f} MiB")
    print(
        f"  classes: {len(labelled)}, without a class: {classes[-1]}; decoded to the end: {min(decoded, len(source))}"
    )
    if expected:
        share = 100 * good / expected
        print(f"  {good} of {expected} expected videos ({share:.2f} %), missing: {max(expected - good, 0)}")
    for problem in problems[:_SHOWN]:
        print(f"  WRONG {problem.encode('utf-8', 'backslashreplace').decode()}")
    if len(problems) > _SHOWN:
        print(f"  and {len(problems) - _SHOWN} more")


if __name__ == "__main__":
    sys.exit(main())
