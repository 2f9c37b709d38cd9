"""Checks that shards are complete, undamaged and decodable. Exit code 0 only if all is well.

  python -m sigma_jax.tools.verify --data_dir=DIR [--split=train] [--full] [--dataset=k400] [--max_missing=0.05]

Every record is read, both checksums, the schema and the label are checked, and the index is made anew and compared. A
sample of the videos is decoded to the end, with --full all. Data sets of tensorflow-datasets are checked in the same
way; array_record files hold an index and checksums of their own. Against the expected number of videos of a known data
set (datasets/specs.py; by the name of the shards, or --dataset) missing ones are told; they are an error where their
share is above --max_missing.
"""

import argparse
import contextlib
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sigma_jax.data import metadata, records, stills, tfds_sets, time_limit
from sigma_jax.data.clips import decode_record
from sigma_jax.data.decode import BadVideo, probe
from sigma_jax.data.pictures import decode_image
from sigma_jax.data.schema import Record
from sigma_jax.data.source import Source, find_contradictions, open_unchecked
from sigma_jax.datasets.classes import check_names
from sigma_jax.datasets.listing import printable
from sigma_jax.datasets.specs import SPECS, expected_videos
from sigma_jax.runtime import signals
from sigma_jax.runtime.command import Command, command_parser, leave, natural

_SAMPLE = 32  # videos decoded without --full
_SHOWN = 20  # problems printed


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("verify", __doc__)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--split", help="split to check (default: all)")
    parser.add_argument("--full", action="store_true", help="decode all videos")
    parser.add_argument("--dataset", default="", help="name in datasets/specs.py; default: the name of the shards")
    parser.add_argument("--max_missing", type=float, default=1.0, help="largest share of missing videos")
    parser.add_argument("--workers", type=natural, default=os.cpu_count() or 1, help="processes; 0: only this one")
    args = parser.parse_args(argv)
    if args.dataset and args.dataset not in SPECS:
        parser.error(f"--dataset={args.dataset} is unknown, expected one of {sorted(SPECS)}")
    return args


def verify(args: argparse.Namespace) -> int:
    """Checks and prints every split."""
    splits = [args.split] if args.split else _splits(args.data_dir)
    if not args.split:
        with contextlib.suppress(records.DataSetError):  # a damaged report is told with every split
            promised = [split for split, report in metadata.read_reports(args.data_dir).items() if report.get("videos")]
            splits += [split for split in promised if split not in splits]
    reports = [_verify_or_say(args, split) for split in splits]
    verdicts = {good for good, _ in reports}
    if verdicts != {True}:
        print("FAILED: copy or prepare the shards again" if False in verdicts else "FAILED: not all could be read")
        return 1
    missing = sum(missing for _, missing in reports)
    print(f"the shards are in order, but {missing} expected videos are missing" if missing else "all is well")
    return 0


def _verify_or_say(args: argparse.Namespace, split: str) -> tuple[bool | None, int]:
    """As verify_split; None where the file system did not let it be read."""
    try:
        return verify_split(args, split)
    except (records.DataSetError, OSError) as error:
        print(f"verify: {split}: {error}", file=sys.stderr)
        return None if isinstance(error, OSError) else False, 0


def _splits(data_dir: Path) -> list[str]:
    if tfds_sets.array_record_splits(data_dir) or records.has_shards(data_dir):
        return tfds_sets.array_record_splits(data_dir) or records.find_splits(data_dir)
    return stills.find_splits(data_dir) or records.find_splits(data_dir)


def verify_split(args: argparse.Namespace, split: str) -> tuple[bool, int]:
    """Checks and prints one split: (is all that is there in order, how many expected videos are missing).

    Raises DataSetError where its shards or their index are not in order as a whole.
    """
    source = open_unchecked(args.data_dir, split)
    names = list(source.classes)
    num_classes = len(names) or tfds_sets.num_classes(args.data_dir)
    ranked = sorted(range(len(source)), key=lambda i: hashlib.sha256(b"%d" % i).digest())
    decoded = set(ranked if args.full else ranked[:_SAMPLE])
    problems, classes, keys = [*_index_problems(source), *find_contradictions(source)], Counter(), Counter()
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
    name = args.dataset or re.sub(r"-.*", "", source.shards[0].name)
    if names:
        try:
            check_names(name, names, "label_map.txt")
        except records.DataSetError as error:
            problems.append(str(error))
    expected = expected_videos(name, split)
    missing = max(expected - sum(classes.values()), 0)
    if missing > args.max_missing * expected:
        problems.append(f"{missing} of {expected} expected videos are missing, --max_missing={args.max_missing:g}")
    _print(split, source, problems, classes, len(decoded), expected)
    return not problems, missing


def check_record(source: Source, num_classes: int, decoded: set[int], index: int) -> tuple:
    """(key, label, what is wrong or empty) of one record."""
    place = "{}, record {}".format(*source.describe(index))
    try:
        record = source.read_whole(index)
    except records.BadRecord as error:
        return "", -1, str(error)
    if record.label < -1 or (num_classes and record.label >= num_classes):
        return (
            record.key,
            record.label,
            f"{place} ({record.key}): label {record.label}, there are {num_classes} classes",
        )
    wrong = metadata.check_label(source.classes, record.label, record.label_name)
    if wrong:
        return record.key, record.label, f"{place} ({record.key}): {wrong}"
    if tuple(source[index].frames) != tuple(record.frames):
        return record.key, record.label, f"{place} ({record.key}): its table of frames leads to other frames"
    if index in decoded:
        try:
            _decode_whole(record, source.stills)
        except BadVideo as error:
            return record.key, record.label, f"{place} ({record.key}): {error}"
    return record.key, record.label, ""


def _decode_whole(record: Record, still: bool) -> None:
    """Raises BadVideo unless everything can be decoded and is what the record says."""
    if still:
        found = 1, *decode_image(record.video).shape[:2]
    elif record.frames:
        height, width = decode_record(record, np.arange(len(record.frames))).shape[1:3]
        found = len(record.frames), height, width
    else:
        info = probe(record.video)
        found = info.num_frames, info.height, info.width
    stated = record.num_frames, record.height, record.width
    if any(a and a != b for a, b in zip(stated, found, strict=True)):  # 0: not stated
        raise BadVideo(f"frames, height and width are {found}, the record says {stated}")


def _run(check: Callable[[int], tuple], count: int, workers: int) -> Iterator[tuple]:
    """check(i) of all records. `check` holds the index of all of them, so a process gets it once."""
    if workers == 0 or count < 64:
        yield from map(check, range(count))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (check,)) as pool:
        try:
            with signals.shielded():  # which starts them
                results = pool.map(_check_in_worker, range(count), chunksize=16)
            yield from results
        except BrokenProcessPool as error:
            raise records.DataSetError(f"a video crashed its decoder ({error}): --workers=0 shows which") from error


def _start_worker(check: Callable[[int], tuple]) -> None:
    global _check
    time_limit.end_with_parent()
    _check = check


def _check_in_worker(index: int) -> tuple:
    return _check(index)


def _index_problems(source: Source) -> list[str]:
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
        print(f"  WRONG {printable(problem)}")
    if len(problems) > _SHOWN:
        print(f"  and {len(problems) - _SHOWN} more")


main = Command("verify", parse_arguments, verify)

if __name__ == "__main__":
    leave(main())
