"""Videos -> checked TFRecord shards, with a report of what was refused and why.

  python -m sigma_jax.tools.prepare --videos=FOLDER --out=DIR
  python -m sigma_jax.tools.prepare --videos=FOLDER --csv=train.csv --out=DIR --split=train --shards=64 --payload=jpeg
  python -m sigma_jax.tools.prepare --videos=FOLDER --csv=train.csv --format=kinetics --name=k400 --out=DIR

A folder's sub-folders are its classes; a csv has one `path label` a line, other lists: datasets/list_formats.py. Every
video is decoded to its end. The same command again continues a killed one. The shards depend on the videos, the payload
and the number of shards only. Exit code 0: shards are there; 1: nothing usable; 2: wrong usage or no room on the disk;
130: stopped from the keyboard.
"""

import argparse
import errno
import hashlib
import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sigma_jax.data import metadata, records
from sigma_jax.datasets import beam_writing as beam_shards
from sigma_jax.datasets.classes import check_names, label_hash, shipped_names, spelling
from sigma_jax.datasets.list_formats import FOLDER_FORMATS, FORMATS, ListSpec, read_list
from sigma_jax.datasets.listing import SUFFIXES, Entry, Refusal, are_numbers, list_folder, number_labels, printable
from sigma_jax.datasets.payload import PAYLOADS, Payload
from sigma_jax.datasets.specs import SPECS, expected_videos
from sigma_jax.datasets.subsets import SUBSETS
from sigma_jax.datasets.writing import (
    OutOfSpace,
    ShardJob,
    ShardResult,
    check_room,
    clear,
    read_note,
    remove_notes,
    write_shards,
)
from sigma_jax.runtime.command import Command, leave
from sigma_jax.runtime.errors import StorageRefused, UserError
from sigma_jax.runtime.folder_lock import owned

_EARLY = 200  # videos, after which the size of all is told
_SHARD_BYTES, _SHARD_VIDEOS = 256 * 2**20, 2048  # a shard holds at most about this much, unless --shards says otherwise


class UsageError(UserError, ValueError):
    """The command cannot be carried out as given; the message says what to change."""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos (with --csv: what its paths are relative to)")
    parser.add_argument("--csv", type=Path, help="list of `path label` lines (tab, comma or blank), see --format")
    parser.add_argument("--format", default="csv", choices=sorted(FORMATS), help="of the list")
    parser.add_argument("--labels", type=Path, help="class names, for lists that keep them apart (ssv2, ucf101, ...)")
    parser.add_argument("--subset", default="", choices=["", *SUBSETS], help="part of a list that SEVERE trains on")
    parser.add_argument("--payload", default="video", choices=PAYLOADS, help="what is stored of a video")
    parser.add_argument("--short_side", type=int, default=256, help="of video-small and jpeg, pixels; never enlarged")
    parser.add_argument("--quality", type=int, default=90, help="of jpeg, 1..100")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--name", help="name of the data set, part of the file names; default: the subset's, or videos")
    parser.add_argument("--split", default="train")
    parser.add_argument("--val_fraction", type=float, default=0.0, help="share of the videos put into a split `val`")
    parser.add_argument("--shards", type=int, default=0, help="per split; default: by size")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; 0: none, no --timeout")
    parser.add_argument("--runner", default="local", help="local, or one of Apache Beam: DirectRunner, ...")
    parser.add_argument("--beam_options", default="", help="Beam's own flags, in one argument")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one video")
    args = parser.parse_args(argv)
    args.name = args.name or args.subset or "videos"
    return args


def prepare(args: argparse.Namespace) -> int:
    """Writes the shards; what the disk refuses is said with what to do. Returns the exit code."""
    try:
        return write_all(args)
    except OSError as error:
        advice = ""
        if isinstance(error, OutOfSpace) or error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = ". Finished shards are kept: make room and run the same command again"
        elif error.filename and Path(os.fsdecode(error.filename)).is_relative_to(args.out):
            advice = f". --out={args.out} must be a folder that can be written"
        raise StorageRefused(f"{error}{advice}") from error


def write_all(args: argparse.Namespace) -> int:
    """Lists, checks and writes all splits of one command; returns the exit code."""
    listed = _list(args)
    entries, refused = listed.entries, listed.refused
    payload = _payload(args)
    if not entries and not refused:
        expected = "lines `path label`" if args.csv else f"files that end in {SUFFIXES}"
        print(f"{args.csv or args.videos} lists no video: expected {expected}")
    with owned(args.out, main.end_at_once):  # two would delete each other's shards
        entries, labels, names, unknown = _number(args, entries, listed.class_names)
        report, jobs = {}, []
        for split, members in _split(entries, args.split, args.val_fraction).items():
            report[split] = _write_split(args, split, members, labels, payload, jobs)
        report[args.split]["refused"] += [asdict(refusal) for refusal in refused + unknown]
        report[args.split]["other_files"] = listed.others
        if listed.subset:
            report[args.split]["subset"] = listed.subset
        if names and any(split["videos"] for split in report.values()):
            metadata.write_label_map(args.out, names)
        for split in report.values():
            split["label_hash"] = label_hash(names) if names else ""
        _save_report(args.out, report)
        remove_notes(jobs)
    print_summary(args.out, report)
    return 0 if all(split["videos"] for split in report.values()) else 1


def _number(
    args: argparse.Namespace, entries: list[Entry], class_names: list[str]
) -> tuple[list[Entry], dict[str, int], list[str], list[Refusal]]:
    """(videos whose class has a number, label -> number, class names in order, the other videos)."""
    known = metadata.read_label_map(args.out)
    if known and class_names and list(map(spelling, known)) != list(map(spelling, class_names)):
        raise UsageError(
            f"{args.out / 'label_map.txt'} has other classes than --labels={args.labels}: use another --out"
        )
    refused = [Refusal(e.key, f"label {e.label!r} is no line") for e in entries if len(e.label.splitlines()) > 1]
    entries = [entry for entry in entries if len(entry.label.splitlines()) <= 1]  # label_map.txt has one for each
    entries, known = _match_known(args, entries, known or class_names)
    num_classes = SPECS[args.name].num_classes if args.name in SPECS else 0
    labels, names = number_labels(entries, known, num_classes)
    if are_numbers(entries) and not names:
        why = f"is no number of a class: expected 0..{num_classes - 1 if num_classes else 'n'}, or -1 for none"
    else:
        why = "is not in the label map"
    refused += [Refusal(e.key, f"label {e.label!r} {why}") for e in entries if e.label not in labels]
    return [entry for entry in entries if entry.label in labels], labels, names, refused


def _match_known(args: argparse.Namespace, entries: list[Entry], names: list[str]) -> tuple[list[Entry], list[str]]:
    """(videos with classes as the data set --name spells them, class names in order).

    Raises UsageError where the list or --out brings another label map than the data set has.
    """
    shipped = shipped_names(args.name)
    if names:
        try:
            found = args.out if (args.out / "label_map.txt").exists() else args.csv
            check_names(args.name, names, f"--labels={args.labels}" if args.labels else f"the label map of {found}")
        except records.DataSetError as error:
            raise UsageError(f"{error}. For other classes choose another --name") from error
        if shipped and found == args.csv:
            names = shipped  # the list may write `brush_hair`
    elif not shipped or are_numbers(entries):
        return entries, []  # numbers: which names they stand for is not known
    if not shipped:
        return entries, names
    names = names or shipped
    spelled = {spelling(name): name for name in names}
    return [replace(entry, label=spelled.get(spelling(entry.label), entry.label)) for entry in entries], names


def _payload(args: argparse.Namespace) -> Payload:
    try:
        return Payload(args.payload, args.short_side, args.quality)
    except ValueError as error:
        raise UsageError(str(error)) from error


class Listed(NamedTuple):
    """What a folder or a list holds."""

    entries: list[Entry]
    refused: list[Refusal]
    others: list[str]  # files that are no videos
    class_names: list[str]  # in order, where the list states it
    subset: dict  # which part of the list was taken (list_formats.take_subset); {}: all


def _list(args: argparse.Namespace) -> Listed:
    """The videos of one command."""
    if not args.videos and not args.csv:
        raise UsageError("expected --videos=FOLDER or --csv=FILE")
    folder = args.videos or args.csv.parent
    if not folder.is_dir():
        raise UsageError(f"--videos={folder} is no folder")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", args.name) or not re.fullmatch(r"[a-z][a-z0-9_]*", args.split):
        raise UsageError(f"--name={args.name} and --split={args.split} must be lower-case letters, digits and _")
    if not 0 <= args.val_fraction < 1 or (args.val_fraction and args.split == "val"):
        raise UsageError(f"--val_fraction={args.val_fraction} must be in [0, 1), and --split another than val")
    if args.beam_options and args.runner == "local":
        raise UsageError(f"--beam_options={args.beam_options} needs a --runner of Apache Beam, such as DirectRunner")
    if args.shards < 0 or args.workers < 0 or args.timeout <= 0:
        raise UsageError(f"--shards={args.shards}, --workers={args.workers}, --timeout={args.timeout} must be positive")
    if args.subset and (not args.csv or args.val_fraction):
        raise UsageError(f"--subset={args.subset} is a part of a released list: give --csv, and no --val_fraction")
    if not args.csv:
        entries, others = list_folder(folder)
        return Listed(entries, [], others, [], {})
    for flag in ("csv", "labels"):
        path = getattr(args, flag)
        if path and not (path.is_file() or (path.is_dir() and args.format in FOLDER_FORMATS)):
            raise UsageError(f"--{flag}={path} is no file")
    try:
        found, names = read_list(args.format, ListSpec(args.csv, folder, args.split, args.labels, args.subset))
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Listed(found.entries, found.refused, [], names, found.subset)


def _split(entries: list[Entry], split: str, val_fraction: float) -> dict[str, list[Entry]]:
    """Puts the videos with the smallest hashes of their keys into `val`: stable when videos are added."""
    if not val_fraction:
        return {split: entries}
    ranked = sorted(entries, key=lambda e: hashlib.sha256(e.key.encode("utf-8", "surrogateescape")).digest())
    val = {entry.key for entry in ranked[: max(round(val_fraction * len(entries)), 1)]}
    return {split: [e for e in entries if e.key not in val], "val": [e for e in entries if e.key in val]}


def _write_split(
    args: argparse.Namespace,
    split: str,
    entries: list[Entry],
    labels: dict[str, int],
    payload: Payload,
    all_jobs: list[ShardJob],
) -> dict:
    """Writes shards, metadata and the index; returns the split's report, and adds its jobs to `all_jobs`.

    Their notes stay until the report of all splits is written, so that a run that is killed before goes on.
    """
    num_bytes = sum(entry.path.stat().st_size for entry in entries if entry.path.is_file())
    jobs = make_jobs(args, split, entries, labels, payload, num_bytes)
    all_jobs += jobs
    index = records.index_path(args.out, args.name, split)
    if _is_finished(args, split) and not any(read_note(job) for job in jobs):
        raise UsageError(
            f"{args.out} already has a finished split {split!r}: delete it ({index} too) or choose another --out"
        )
    again = clear(args.out, args.name, split, jobs)
    if again:
        print(f"{again} finished shards of {split!r} hold other videos, labels or settings: they are made anew")
    size = num_bytes if payload.kind == "video" else 0  # what the other payloads need shows on the way
    check_room(args.out, size, reused=sum(job.path.stat().st_size for job in jobs if job.path.exists()))
    terminal = sys.stderr.isatty()
    with tqdm(total=len(entries), unit="video", mininterval=0.2 if terminal else 30, dynamic_ncols=terminal) as bar:

        def progress(count: int) -> None:
            early = bar.n < _EARLY
            bar.update(count)
            if early and bar.n >= _EARLY:
                bar.write(_forecast(args, split, bar.n / bar.total))

        results = list(_run(args, jobs, progress))
    folder = args.videos or args.csv.parent
    if not folder.is_dir():  # a disk that went away; shards that it spoiled are made anew
        raise UsageError(f"{folder} is gone since the start: when it is back, the same command goes on")
    videos = sum(result.num_records for result in results)
    size = sum(result.num_bytes for result in results)
    if videos:
        lengths = [result.num_records for result in results]
        metadata.write_metadata(args.out, args.name, split, lengths, size, payload.kind)
        records.build_index(args.out, split)
    else:
        for job in jobs:
            job.path.unlink()
    classes = sum((result.classes for result in results), Counter())
    return {
        "videos": videos,
        "expected_videos": expected_videos(args.name, split),
        "shards": len(jobs) if videos else 0,
        "bytes": size,
        "payload": asdict(payload),
        "videos_per_class": dict(sorted(classes.items())),
        "refused": [asdict(refusal) for result in results for refusal in result.refused],
        "warnings": [asdict(warning) for result in results for warning in result.warnings],
    }


def _forecast(args: argparse.Namespace, split: str, share: float) -> str:
    """How large the shards will be, judged by this share of the videos, and whether the disk has room for them."""
    paths = [path for path in args.out.glob(f"{args.name}-{split}-*.tfrecord*") if path.exists()]
    size = sum(path.stat().st_size for path in paths)
    rest, free = (size / share - size) / 2**30, shutil.disk_usage(args.out).free / 2**30
    verdict = "" if rest < free else ": they will not fit. Stop, make room and run the same command again"
    return f"{split} will take about {size / share / 2**30:.1f} GiB, {rest:.1f} more, and {free:.1f} are free{verdict}"


def _is_finished(args: argparse.Namespace, split: str) -> bool:
    """Whether all shards of a split are there, even where the index that belongs to them was lost."""
    if records.index_path(args.out, args.name, split).exists():
        return True
    splits = metadata.read_json(args.out / "dataset_info.json").get("splits", [])
    return split in [entry["name"] for entry in splits] and any(args.out.glob(f"{args.name}-{split}-*-of-*.tfrecord"))


def _run(args: argparse.Namespace, jobs: list[ShardJob], progress) -> Iterator[ShardResult]:
    if args.runner == "local":
        return write_shards(jobs, workers=args.workers, timeout=args.timeout, progress=progress)
    options = shlex.split(args.beam_options)
    return beam_shards.write_shards(jobs, runner=args.runner, options=options, timeout=args.timeout, progress=progress)


def make_jobs(
    args: argparse.Namespace,
    split: str,
    entries: list[Entry],
    labels: dict[str, int],
    payload: Payload,
    num_bytes: int,
) -> list[ShardJob]:
    """Deals the videos out to shards, neighbours to different ones."""
    count = args.shards or max(-(-num_bytes // _SHARD_BYTES), -(-len(entries) // _SHARD_VIDEOS), 1)
    count = max(min(count, len(entries)), 1)
    paths = [args.out / records.shard_name(args.name, split, i, count) for i in range(count)]
    return [ShardJob(path, entries[i::count], labels, payload) for i, path in enumerate(paths)]


def _save_report(out: Path, report: dict) -> None:
    path = out / "prepare_report.json"
    metadata.write_json(path, metadata.read_json(path) | report)


def print_summary(out: Path, report: dict) -> None:
    for split, result in report.items():
        classes, refused = len(result["videos_per_class"]), result["refused"]
        unlabelled = result["videos_per_class"].get("", 0)
        expected = f" of {result['expected_videos']} expected" if result["expected_videos"] else ""
        size = f"{result['bytes'] / 2**20:.1f} MiB"
        print(f"{split}: {result['videos']} videos{expected} in {result['shards']} shards, {size}")
        print(f"  classes: {classes - bool(unlabelled)}, videos without a class: {unlabelled}")
        if result["label_hash"]:
            print(f"  label map: hash {result['label_hash']}")
        for problem in metadata.problems_of(split, result) if "subset" in result else ():
            print(f"  INCOMPLETE subset {result['subset']['name']}: {printable(problem)}")
        if result.get("other_files"):
            print(f"  {len(result['other_files'])} files without a video suffix were left alone")
        for title, items in (("refused", refused), ("accepted with a warning", result["warnings"])):
            if items:
                print(f"  {title}: {len(items)}")
            for item in items[:50]:
                print(f"    {printable(item['key'])}: {printable(item['reason'])}")
            if len(items) > 50:
                print(f"    and {len(items) - 50} more")
        if not result["videos"]:
            print(f"  nothing usable: no shards were written for {split!r}")
    print(f"All reasons and counts: {out / 'prepare_report.json'}")


main = Command(
    "prepare",
    parse_arguments,
    prepare,
    statuses={UserError: 2},
    after_stop="Finished shards are kept: the same command goes on",
)

if __name__ == "__main__":
    leave(main())
