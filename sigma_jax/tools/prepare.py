"""Videos -> checked TFRecord shards, with a report of what was refused and why.

  python -m sigma_jax.tools.prepare --videos=FOLDER --out=DIR
  python -m sigma_jax.tools.prepare --videos=FOLDER --csv=train.csv --out=DIR --split=train --shards=64

A folder's sub-folders are its classes; a csv has one `path label` a line. Every video is decoded to its end. The shards
depend on the videos and the number of shards only. Exit code 0: shards are there; 1: nothing usable; 2: wrong usage.
"""

import argparse
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from sigma_jax.data import metadata, records
from sigma_jax.data.decode import BadVideo, probe
from sigma_jax.data.listing import Entry, Refusal, list_csv, list_folder, number_labels

MIN_SIDE = 16  # pixels: one tube
_SHARD_BYTES, _SHARD_VIDEOS = 256 * 2**20, 2048  # a shard holds at most about this much, unless --shards says otherwise
_MAX_BYTES = 2**30  # of one video; a record must stay below 2 GiB


class UsageError(ValueError):
    """The command cannot be carried out as given; the message says what to change."""


@dataclass(frozen=True)
class ShardJob:
    """One shard to be written by one process."""

    path: Path
    entries: list[Entry]
    labels: dict[str, int]


@dataclass(frozen=True)
class ShardResult:
    num_records: int
    num_bytes: int
    classes: Counter  # label text -> videos
    refused: list[Refusal]
    warnings: list[Refusal]


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        return prepare(args)
    except (UsageError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos (with --csv: what its paths are relative to)")
    parser.add_argument("--csv", type=Path, help="list of `path label` lines (tab, comma or blank)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--name", default="videos", help="name of the data set, part of the file names")
    parser.add_argument("--split", default="train")
    parser.add_argument("--val_fraction", type=float, default=0.0, help="share of the videos put into a split `val`")
    parser.add_argument("--shards", type=int, default=0, help="per split; default: by size")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace) -> int:
    """Lists, checks and writes all splits of one command; returns the exit code."""
    entries, refused, others = _list(args)
    args.out.mkdir(parents=True, exist_ok=True)
    labels, names = number_labels(entries, metadata.read_label_map(args.out))
    unknown = [Refusal(e.key, f"label {e.label!r} is not in the label map") for e in entries if e.label not in labels]
    refused += unknown
    entries = [entry for entry in entries if entry.label in labels]
    report = {}
    for split, members in _split(entries, args.split, args.val_fraction).items():
        _clear(args.out, args.name, split)
        report[split] = _write_split(args, split, members, labels)
    report[args.split]["refused"] += [asdict(refusal) for refusal in refused]
    report[args.split]["other_files"] = others
    if names and any(split["videos"] for split in report.values()):
        metadata.write_label_map(args.out, names)
    _save_report(args.out, report)
    _print_summary(args.out, report)
    return 0 if all(split["videos"] for split in report.values()) else 1


def _list(args: argparse.Namespace) -> tuple[list[Entry], list[Refusal], list[str]]:
    if not args.videos and not args.csv:
        raise UsageError("expected --videos=FOLDER or --csv=FILE")
    folder = args.videos or args.csv.parent
    if not folder.is_dir():
        raise UsageError(f"--videos={folder} is no folder")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", args.name) or not re.fullmatch(r"[a-z][a-z0-9_]*", args.split):
        raise UsageError(f"--name={args.name} and --split={args.split} must be lower-case letters, digits and _")
    if not 0 <= args.val_fraction < 1 or (args.val_fraction and args.split == "val"):
        raise UsageError(f"--val_fraction={args.val_fraction} must be in [0, 1), and --split another than val")
    if args.shards < 0 or args.workers < 1:
        raise UsageError(f"--shards={args.shards} and --workers={args.workers} must be positive")
    if not args.csv:
        entries, others = list_folder(folder)
        return entries, [], others
    if not args.csv.is_file():
        raise UsageError(f"--csv={args.csv} is no file")
    return *list_csv(args.csv, folder), []


def _split(entries: list[Entry], split: str, val_fraction: float) -> dict[str, list[Entry]]:
    """Puts the videos with the smallest hashes of their keys into `val`: stable when videos are added."""
    if not val_fraction:
        return {split: entries}
    ranked = sorted(entries, key=lambda e: hashlib.sha256(e.key.encode("utf-8", "surrogateescape")).digest())
    val = {entry.key for entry in ranked[: max(round(val_fraction * len(entries)), 1)]}
    return {split: [e for e in entries if e.key not in val], "val": [e for e in entries if e.key in val]}


def _clear(out: Path, name: str, split: str) -> None:
    """Removes what a killed run left; refuses to touch a finished split."""
    index = records.index_path(out, name, split)
    if index.exists():
        raise UsageError(
            f"{out} already has a finished split {split!r}: delete it ({index} too) or choose another --out"
        )
    for path in out.glob(f"{name}-{split}-*-of-*.tfrecord*"):
        path.unlink()


def _write_split(args: argparse.Namespace, split: str, entries: list[Entry], labels: dict[str, int]) -> dict:
    """Writes shards, metadata and (last, as the mark of completeness) the index; returns the split's report."""
    num_bytes = sum(entry.path.stat().st_size for entry in entries if entry.path.is_file())
    count = args.shards or max(-(-num_bytes // _SHARD_BYTES), -(-len(entries) // _SHARD_VIDEOS), 1)
    count = max(min(count, len(entries)), 1)
    paths = [args.out / records.shard_name(args.name, split, i, count) for i in range(count)]
    jobs = [ShardJob(path, entries[i::count], labels) for i, path in enumerate(paths)]
    results = list(_run(jobs, args.workers, len(entries)))
    videos = sum(result.num_records for result in results)
    if videos:
        lengths = [result.num_records for result in results]
        metadata.write_metadata(args.out, args.name, split, lengths, sum(result.num_bytes for result in results))
        records.build_index(args.out, split)
    else:
        for path in paths:
            path.unlink()
    classes = sum((result.classes for result in results), Counter())
    return {
        "videos": videos,
        "shards": count if videos else 0,
        "bytes": sum(result.num_bytes for result in results),
        "videos_per_class": dict(sorted(classes.items())),
        "refused": [asdict(refusal) for result in results for refusal in result.refused],
        "warnings": [asdict(warning) for result in results for warning in result.warnings],
    }


def _run(jobs: list[ShardJob], workers: int, total: int) -> Iterator[ShardResult]:
    with tqdm(total=total, unit="video", disable=not sys.stderr.isatty()) as bar:
        if workers == 1 or len(jobs) == 1:
            for job in jobs:
                yield write_shard(job)
                bar.update(len(job.entries))
            return
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            for job, result in zip(jobs, pool.map(write_shard, jobs), strict=True):
                yield result
                bar.update(len(job.entries))


def write_shard(job: ShardJob) -> ShardResult:
    """Checks the videos of one shard and writes the good ones."""
    classes, refused, warnings = Counter(), [], []
    with records.ShardWriter(job.path) as writer:
        for entry in job.entries:
            try:
                record, warning = check_video(entry, job.labels[entry.label])
            except (BadVideo, OSError) as error:
                refused.append(Refusal(entry.key, str(error)))
                continue
            writer.write(record)
            classes[entry.label] += 1
            if warning:
                warnings.append(Refusal(entry.key, warning))
    return ShardResult(writer.num_records, job.path.stat().st_size, classes, refused, warnings)


def check_video(entry: Entry, label: int) -> tuple[records.Record, str]:
    """(record, warning or empty); raises BadVideo with the reason where the video is of no use."""
    size = entry.path.stat().st_size
    if size > _MAX_BYTES:
        raise BadVideo(f"{size} bytes, more than {_MAX_BYTES}: cut or re-encode it")
    data = entry.path.read_bytes()
    info = probe(data)
    if min(info.height, info.width) < MIN_SIDE:
        raise BadVideo(f"too small: {info.width}x{info.height} pixels, at least {MIN_SIDE} on each side are needed")
    shape = {"num_frames": info.num_frames, "height": info.height, "width": info.width, "fps": info.fps}
    return records.Record(data, entry.key, label, entry.label, **shape), info.warning


def _save_report(out: Path, report: dict) -> None:
    path = out / "prepare_report.json"
    metadata.write_json(path, metadata.read_json(path) | report)


def _print_summary(out: Path, report: dict) -> None:
    for split, result in report.items():
        classes, refused = len(result["videos_per_class"]), result["refused"]
        unlabelled = result["videos_per_class"].get("", 0)
        print(f"{split}: {result['videos']} videos in {result['shards']} shards, {result['bytes'] / 2**20:.1f} MiB")
        print(f"  classes: {classes - bool(unlabelled)}, videos without a class: {unlabelled}")
        if result.get("other_files"):
            print(f"  {len(result['other_files'])} files without a video suffix were left alone")
        for title, items in (("refused", refused), ("accepted with a warning", result["warnings"])):
            if items:
                print(f"  {title}: {len(items)}")
            for item in items[:50]:
                print(f"    {_printable(item['key'])}: {_printable(item['reason'])}")
            if len(items) > 50:
                print(f"    and {len(items) - 50} more")
        if not result["videos"]:
            print(f"  nothing usable: no shards were written for {split!r}")
    print(f"All reasons and counts: {out / 'prepare_report.json'}")


def _printable(text: str) -> str:
    """Names that are no valid text are shown escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    sys.exit(main())
