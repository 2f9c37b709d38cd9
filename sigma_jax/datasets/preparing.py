"""From a folder or a list of videos to the shards of a data set: list, number the classes, split, write, report."""

import errno
import hashlib
import os
import re
import shlex
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from sigma_jax.data import metadata, records
from sigma_jax.data.class_names import comparable, spelling
from sigma_jax.datasets import beam_writing
from sigma_jax.datasets.frame_folders import folder_stamp
from sigma_jax.datasets.list_formats import ListSpec, read_list, read_names
from sigma_jax.datasets.listing import (
    SUFFIXES,
    Entry,
    Listing,
    printable,
    read_folder,
    some,
)
from sigma_jax.datasets.numbering import number_classes, splits_there
from sigma_jax.datasets.prepare_spec import PrepareSpec
from sigma_jax.datasets.specs import expected_videos
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
from sigma_jax.runtime.errors import InvalidValue, StorageRefused
from sigma_jax.runtime.folder_lock import owned

_EARLY = 200  # after so many videos the size of the whole data set is forecast
_SHARD_BYTES, _SHARD_VIDEOS = 256 * 2**20, 2048  # approximate largest size of a shard, if --shards is not given
_NOTHING_WRITTEN = "Nothing was written. Correct the list or the folder, or accept the share with --max_refused=1"
_WRITTEN = "The shards are written and can be used as they are; the reasons are in {}"

Say = Callable[[str], object]  # prints a line for the user


class TooManyRefused(InvalidValue):
    """More videos were refused than the caller accepts."""


def prepare(spec: PrepareSpec, say: Say, on_lost: Say) -> dict[str, dict]:
    """Writes all splits; returns their reports as in `prepare_report.json`.

    Args:
      spec: what is prepared.
      say: prints a line for the user.
      on_lost: called with a message if another process has taken over the folder of the shards; ends the program.

    Raises:
      InvalidValue: the videos, the list or the folder for the shards are not as expected.
      TooManyRefused: too many videos are refused. Raised before anything is written, or, if only decoding could find
        that out, after the shards are written.
      StorageRefused: a file cannot be read or written; the message says what to do.
    """
    try:
        return _prepare(spec, say, on_lost)
    except OSError as error:
        advice = ""
        if isinstance(error, OutOfSpace) or error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = ". Finished shards are kept: make room and run the same command again"
        elif error.filename and Path(os.fsdecode(error.filename)).is_relative_to(spec.out):
            advice = f". --out={spec.out} must be a folder that can be written"
        raise StorageRefused(f"{error}{advice}") from error


def _prepare(spec: PrepareSpec, say: Say, on_lost: Say) -> dict[str, dict]:
    listing, class_names = _list(spec)
    for note in listing.notes:
        say(note)
    if not listing.entries and not listing.refused:
        expected = "lines `path label`" if spec.csv else f"files that end in {SUFFIXES}, or folders of pictures"
        say(f"{spec.origin} lists no video: expected {expected}")
    if any(entry.path.is_dir() for entry in listing.entries[:1]) and spec.payload.kind != "jpeg":
        raise InvalidValue(f"{spec.origin} has folders of pictures: they need --payload=jpeg")
    with owned(spec.out, on_lost):  # two programs would delete each other's shards
        numbered = number_classes(spec.label_source, listing, class_names)
        refused = listing.refused + numbered.refused
        splits = _split(spec, numbered.entries)
        writers = {split: _SplitWriter(spec, split, say) for split in splits}
        report = {split: writer.report([]) for split, writer in writers.items()}
        main = next(iter(report))
        report[main]["refused"] = told = [asdict(refusal) for refusal in refused]
        count = len(listing.entries) + len(listing.refused)
        if len(refused) > spec.max_refused * count:
            if main not in splits_there(spec.out):
                _save_report(spec.out, report)
            tell_refusals("refused", told, say)
            raise TooManyRefused(_too_many(spec, len(refused), count) + _NOTHING_WRITTEN)
        jobs = []
        for split, members in splits.items():
            report[split] = writers[split].write(members, numbered.labels, jobs)
            report[split]["label_hash"] = metadata.label_hash(numbered.names) if numbered.names else ""
        report[main]["refused"] += told
        report[main]["other_files"] = listing.others
        if listing.subset:
            report[main]["subset"] = listing.subset
        if numbered.names and any(part["videos"] for part in report.values()):
            metadata.write_label_map(spec.out, numbered.names)
        _save_report(spec.out, report)
        remove_notes(jobs)
    summarize(spec.out, report, say)
    for warning in [*_uneven_classes(spec.out), *_odd_numbers(report), *_similar_names(numbered.names)]:
        say(warning)
    num_refused = sum(len(part["refused"]) for part in report.values())
    videos = sum(part["videos"] for part in report.values())
    if videos and num_refused > spec.max_refused * (num_refused + videos):
        raise TooManyRefused(
            _too_many(spec, num_refused, num_refused + videos) + _WRITTEN.format(spec.out / metadata.REPORT)
        )
    return report


def _too_many(spec: PrepareSpec, refused: int, count: int) -> str:
    share = f"{refused} of {count} videos ({refused / count:.1%}) are refused"
    return f"{share}, more than --max_refused={spec.max_refused:g}. "


def _list(spec: PrepareSpec) -> tuple[Listing, list[str]]:
    """(videos of the wanted splits, class names in order, or [] if neither the list nor --labels states them)."""
    if spec.csv:
        list_spec = ListSpec(spec.csv, spec.folder, spec.split or "train", spec.labels, spec.subset, spec.labels_are)
        listing, names = read_list(spec.format, list_spec)
    else:
        listing, names = read_folder(spec.folder, spec.layout), read_names(spec.labels)
    found = {entry.split for entry in listing.entries} - {""}
    if found and spec.split:
        others = [entry for entry in listing.entries if entry.split != spec.split]
        listing.entries = [entry for entry in listing.entries if entry.split == spec.split]
        if not listing.entries:
            raise InvalidValue(f"--split={spec.split} is none of the splits of {spec.origin}: {sorted(found)}")
        listing.notes.append(f"{len(others)} videos of other splits are left out, since --split={spec.split}")
    if "val" in found and spec.val_fraction:
        raise InvalidValue(
            f"{spec.origin} has the splits {sorted(found)} already: leave out --val_fraction, which would "
            "mix them (--layout=classes where the folders are classes)"
        )
    return listing, names


def _split(spec: PrepareSpec, entries: list[Entry]) -> dict[str, list[Entry]]:
    """The videos of each split, as the folders or the list define them, or all in one split.

    With val_fraction the videos whose keys have the smallest hashes move to `val`: the choice is stable when videos are
    added.
    """
    splits: dict[str, list[Entry]] = {}
    for entry in entries:
        splits.setdefault(entry.split or spec.split or "train", []).append(entry)
    splits = {name: splits[name] for name in ("train", *sorted(set(splits) - {"train"})) if name in splits}
    if not splits:
        return {spec.split or "train": []}
    if spec.val_fraction:
        source = spec.split or "train"
        if source not in splits:
            raise InvalidValue(f"--val_fraction takes videos of {source!r}, and there are only {sorted(splits)}")
        ranked = sorted(splits[source], key=_rank)
        val = {entry.key for entry in ranked[: max(round(spec.val_fraction * len(ranked)), 1)]}
        if len(val) == len(ranked):
            raise InvalidValue(f"--val_fraction={spec.val_fraction:g} of {len(ranked)} leaves no video for {source!r}")
        splits["val"] = [entry for entry in splits[source] if entry.key in val]
        splits[source] = [entry for entry in splits[source] if entry.key not in val]
    return splits


def _rank(entry: Entry) -> bytes:
    """A hash of the key, the same for composed and decomposed accents."""
    return hashlib.sha256(comparable(entry.key).encode("utf-8", "surrogateescape")).digest()


class _SplitWriter:
    """Writes the shards, the metadata and the index of one split."""

    def __init__(self, spec: PrepareSpec, split: str, say: Say):
        self.spec, self.split, self.say = spec, split, say

    def write(self, entries: list[Entry], labels: dict[str, int], all_jobs: list[ShardJob]) -> dict:
        """Writes the split and returns its report; adds its jobs to `all_jobs`.

        Their notes are kept until the report of all splits is written, so that a killed run can continue.
        """
        spec = self.spec
        num_bytes = sum(map(_size, entries))
        jobs = self._make_jobs(entries, labels, num_bytes)
        all_jobs += jobs
        self._check_unfinished(jobs)
        size = num_bytes if spec.payload.kind == "video" else 0  # sizes of other payloads are forecast during writing
        check_room(spec.out, size, reused=sum(job.path.stat().st_size for job in jobs if job.path.exists()))
        results = self._run(jobs, len(entries))
        if not spec.folder.is_dir():  # its disk was unmounted; the shards that lack videos will be written again
            raise InvalidValue(f"{spec.folder} has disappeared: when it is back, the same command continues")
        lengths = [result.num_records for result in results]
        if sum(lengths):
            size = sum(result.num_bytes for result in results)
            metadata.write_metadata(spec.out, spec.name, self.split, lengths, size, spec.payload.kind)
            records.build_index(spec.out, self.split)
        else:
            for job in jobs:
                job.path.unlink()
        return self.report(results)

    def report(self, results: list[ShardResult]) -> dict:
        """The split's entry in prepare_report.json, without videos that were refused before writing."""
        videos = sum(result.num_records for result in results)
        classes = sum((result.classes for result in results), Counter())
        return {
            "videos": videos,
            "expected_videos": expected_videos(self.spec.name, self.split),
            "shards": len(results) if videos else 0,
            "bytes": sum(result.num_bytes for result in results),
            "payload": asdict(self.spec.payload),
            "videos_per_class": dict(sorted(classes.items())),
            "refused": [asdict(refusal) for result in results for refusal in result.refused],
            "warnings": [asdict(warning) for result in results for warning in result.warnings],
            "label_hash": "",
        }

    def _make_jobs(self, entries: list[Entry], labels: dict[str, int], num_bytes: int) -> list[ShardJob]:
        """Distributes the videos over shards in turn, neighbours to different shards."""
        spec = self.spec
        count = spec.shards or max(-(-num_bytes // _SHARD_BYTES), -(-len(entries) // _SHARD_VIDEOS), 1)
        count = max(min(count, len(entries)), 1)
        paths = [spec.out / records.shard_name(spec.name, self.split, i, count) for i in range(count)]
        return [ShardJob(path, entries[i::count], labels, spec.payload) for i, path in enumerate(paths)]

    def _check_unfinished(self, jobs: list[ShardJob]) -> None:
        """Raises InvalidValue if the split is finished already; removes shards of an unfinished one that do not fit."""
        spec, index = self.spec, records.index_path(self.spec.out, self.spec.name, self.split)
        shards = any(spec.out.glob(f"{spec.name}-{self.split}-*-of-*.tfrecord"))
        lost_index = shards and metadata.read_shard_lengths(spec.out, self.split)
        if (index.exists() or lost_index) and not any(read_note(job) for job in jobs):
            raise InvalidValue(
                f"{spec.out} already has a finished split {self.split!r}: delete it ({index} too) or choose another "
                "--out"
            )
        again = clear(spec.out, spec.name, self.split, jobs)
        if again:
            self.say(
                f"{again} finished shards of {self.split!r} hold other videos, labels or settings: they are made again"
            )

    def _run(self, jobs: list[ShardJob], count: int) -> list[ShardResult]:
        terminal, spec = sys.stderr.isatty(), self.spec
        with tqdm(total=count, unit="video", mininterval=0.2 if terminal else 30, dynamic_ncols=terminal) as bar:

            def progress(done: int) -> None:
                early = bar.n < _EARLY
                bar.update(done)
                if early and bar.n >= _EARLY:
                    bar.write(self.forecast(bar.n / bar.total))

            if spec.runner == "local":
                found = write_shards(jobs, workers=spec.workers, timeout=spec.timeout, progress=progress)
            else:
                found = beam_writing.write_shards(
                    jobs,
                    runner=spec.runner,
                    options=shlex.split(spec.beam_options),
                    timeout=spec.timeout,
                    progress=progress,
                )
            return list(found)

    def forecast(self, share: float) -> str:
        """A forecast of the size of all shards from this share of the videos, and whether they fit the disk."""
        paths = [path for path in self.spec.out.glob(f"{self.spec.name}-{self.split}-*.tfrecord*") if path.exists()]
        size = sum(path.stat().st_size for path in paths)
        rest, free = (size / share - size) / 2**30, shutil.disk_usage(self.spec.out).free / 2**30
        verdict = "" if rest < free else ": they will not fit. Stop, make room and run the same command again"
        told = f"about {size / share / 2**30:.1f} GiB, {rest:.1f} more, and {free:.1f} are free"
        return f"{self.split} will take {told}{verdict}"


def _size(entry: Entry) -> int:
    """Bytes of a video; 0 if it does not exist."""
    if entry.path.is_dir():
        return folder_stamp(entry.path)[1]
    return entry.path.stat().st_size if entry.path.is_file() else 0


def _save_report(out: Path, report: dict) -> None:
    """Adds these splits to the report in --out."""
    metadata.write_json(out / metadata.REPORT, metadata.read_reports(out) | report)


def _uneven_classes(out: Path) -> list[str]:
    """Sentences about classes that are in one split of a data set and not in another."""
    present = {split: set(part["videos_per_class"]) - {"", "-1"} for split, part in splits_there(out).items()}
    present = {split: classes for split, classes in present.items() if classes}  # others have no labels at all
    everything = set().union(*present.values())
    missing = {split: everything - classes for split, classes in present.items() if everything - classes}
    return [
        f"{split} has no video of {_classes(len(classes))} of the other splits: {some(classes)}"
        for split, classes in missing.items()
    ]


def _similar_names(names: list[str]) -> list[str]:
    """Sentences about classes whose names differ only in case and spaces."""
    groups = defaultdict(list)
    for name in names:
        groups[spelling(name)].append(name)
    return [
        f"these are different classes: {some(group)}. If they should be one, rename a folder"
        for group in groups.values()
        if len(group) > 1
    ]


def _classes(count: int) -> str:
    return f"{count} class" if count == 1 else f"{count} classes"


def _odd_numbers(report: dict) -> list[str]:
    """Sentences about class numbers with gaps, for which a head would have outputs without a class."""
    told = []
    for split, part in report.items():
        numbers = {int(text) for text in part["videos_per_class"] if re.fullmatch(r"[0-9]{1,9}", text)}
        if part["label_hash"] or not numbers or part["expected_videos"] or len(numbers) == max(numbers) + 1:
            continue
        unused = max(numbers) + 1 - len(numbers)
        told.append(
            f"{split}: the labels are numbers {min(numbers)}..{max(numbers)}, a head of {max(numbers) + 1} classes, "
            f"{unused} of them without a video. If they are names: --labels_are=names; if they count from 1: subtract 1"
        )
    return told


def tell_refusals(title: str, items: list[dict], say: Say) -> None:
    """Prints the first videos of a list with their reasons."""
    if items:
        say(f"  {title}: {len(items)}")
    for item in items[:50]:
        say(f"    {printable(item['key'])}: {printable(item['reason'])}")
    if len(items) > 50:
        say(f"    and {len(items) - 50} more")


def summarize(out: Path, report: dict, say: Say) -> None:
    """Prints a summary of the report of these splits."""
    for split, result in report.items():
        classes, unlabelled = len(result["videos_per_class"]), result["videos_per_class"].get("", 0)
        expected = f" of {result['expected_videos']} expected" if result["expected_videos"] else ""
        size = f"{result['bytes'] / 2**20:.1f} MiB"
        say(f"{split}: {result['videos']} videos{expected} in {result['shards']} shards, {size}")
        say(f"  classes: {classes - bool(unlabelled)}, videos without a class: {unlabelled}")
        if result["label_hash"]:
            say(f"  label map: hash {result['label_hash']}")
        for problem in metadata.problems_of(split, result) if "subset" in result else ():
            say(f"  INCOMPLETE subset {result['subset']['name']}: {printable(problem)}")
        if result.get("other_files"):
            say(f"  {len(result['other_files'])} files without a video suffix were ignored")
        for title, items in (("refused", result["refused"]), ("accepted with a warning", result["warnings"])):
            tell_refusals(title, items, say)
        if not result["videos"]:
            say(f"  nothing usable: no shards were written for {split!r}")
    say(f"All reasons and counts: {out / metadata.REPORT}")
