"""Shards written by processes that may hang or crash: the video at fault is refused, everything else is kept.

A worker process writes one shard at a time and tells after every video. When it dies or needs too long for one video,
that video is refused with the reason and a new process goes on behind the last good record. A finished shard has a note
beside it (`.done.json`) with its result and a fingerprint of what went into it; with the same fingerprint it is not
written again.
"""

import hashlib
import math
import multiprocessing
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path

from sigma_jax.data import annotations, metadata, records, time_limit
from sigma_jax.data.decode import ONE_FRAME, BadVideo
from sigma_jax.data.schema import Record
from sigma_jax.datasets.listing import Entry, Refusal
from sigma_jax.datasets.payload import MAX_BYTES, Payload, list_images, store, store_images
from sigma_jax.runtime.errors import UserError

_NOTE = ".done.json"
_RESERVE = 64 * 2**20  # bytes of the disk left alone


class OutOfSpace(UserError, OSError):
    """The disk of the shards is full; finished shards are kept."""


def note_of(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}{_NOTE}")


@dataclass(frozen=True)
class ShardJob:
    """One shard to be written."""

    path: Path
    entries: list[Entry]
    labels: dict[str, int]
    payload: Payload

    @property
    def note(self) -> Path:
        return note_of(self.path)

    def fingerprint(self) -> str:
        """Of the videos (names, sizes, times), their labels and the payload."""
        digest = hashlib.sha256(repr(self.payload).encode())
        for entry in self.entries:
            stat = entry.path.stat() if entry.path.exists() else None
            seen = (stat.st_size, stat.st_mtime_ns) if stat else None
            told = (entry.annotation,) if entry.annotation else ()
            digest.update(repr((entry.key, entry.label, self.labels[entry.label], entry.images, seen, *told)).encode())
        return digest.hexdigest()


@dataclass
class ShardResult:
    num_records: int = 0
    num_bytes: int = 0
    classes: Counter = field(default_factory=Counter)  # label text -> videos
    refused: list[Refusal] = field(default_factory=list)
    warnings: list[Refusal] = field(default_factory=list)

    def book(self, entry: Entry, reason: str, warning: str) -> None:
        if reason:
            self.refused.append(Refusal(entry.key, reason))
            return
        self.num_records += 1
        self.classes[entry.label] += 1
        if warning:
            self.warnings.append(Refusal(entry.key, warning))


def read_note(job: ShardJob) -> ShardResult | None:
    """The result of a shard that was finished before; None where it is not there or was made of something else."""
    if not job.note.exists() or not job.path.exists():
        return None
    note = metadata.read_json(job.note)
    if note["fingerprint"] != job.fingerprint() or note["num_bytes"] != job.path.stat().st_size:
        return None
    lists = {name: [Refusal(**item) for item in note[name]] for name in ("refused", "warnings")}
    return ShardResult(note["num_records"], note["num_bytes"], Counter(note["classes"]), **lists)


def write_shards(
    jobs: list[ShardJob], *, workers: int, timeout: float, progress: Callable[[int], object]
) -> Iterator[ShardResult]:
    """Results of all jobs in order; `progress` is called with the number of videos done since the last call.

    Args:
      workers: processes; 0 writes in this process, where nothing guards against a decoder that hangs or crashes.
      timeout: seconds for one video.

    Raises:
      OutOfSpace: no room on the disk of the shards.
    """
    results = {}
    for number, job in enumerate(jobs):
        if (result := read_note(job)) is not None:
            results[number] = result
            progress(len(job.entries))
    left = [number for number in range(len(jobs)) if number not in results]
    if workers:
        results |= _write_in_processes(jobs, left, workers, timeout, progress)
    else:
        for number in left:
            results[number] = write_here(jobs[number], progress)
    yield from (results[number] for number in range(len(jobs)))


def write_here(job: ShardJob, progress: Callable[[int], object]) -> ShardResult:
    result = ShardResult()
    for entry, (reason, warning, _) in zip(job.entries, write_records(job, 0, 0), strict=True):
        result.book(entry, reason, warning)
        progress(1)
    return _finish(job, result)


def _finish(job: ShardJob, result: ShardResult) -> ShardResult:
    result.num_bytes = job.path.stat().st_size
    write_note(job.note, job.fingerprint(), result)
    return result


def write_note(path: Path, fingerprint: str, result: ShardResult) -> None:
    """The mark of a finished shard, see read_note."""
    lists = {name: [asdict(item) for item in getattr(result, name)] for name in ("refused", "warnings")}
    note = {"num_records": result.num_records, "num_bytes": result.num_bytes, "classes": dict(result.classes), **lists}
    metadata.write_json(path, {"fingerprint": fingerprint, **note})


def write_records(job: ShardJob, first: int, offset: int) -> Iterator[tuple[str, str, int]]:
    """Appends the videos from number `first` on at byte `offset` of the unfinished shard, and finishes it at the end.

    Yields (reason why it was refused or empty, warning or empty, bytes written) of each video.
    """
    with records.ShardWriter(job.path, append_at=offset) as writer:
        for entry in job.entries[first:]:
            try:
                record, warning = read_video(entry, job.labels[entry.label], job.payload)
            except (BadVideo, OSError) as error:
                yield str(error) or type(error).__name__, "", writer.num_bytes
                continue
            check_room(job.path.parent, 2 * sum(map(len, record.frames or [record.video])))
            writer.write(record)
            yield "", warning, writer.num_bytes


def check_room(folder: Path, num_bytes: int, reused: int = 0) -> None:
    """Raises OutOfSpace where so many bytes more would fill the disk of `folder`; `reused` of them it holds already."""
    free = shutil.disk_usage(folder).free + reused
    if free < _RESERVE + num_bytes:
        have, need, reserve = (round(size / 2**20) for size in (free, _RESERVE + num_bytes, _RESERVE))
        raise OutOfSpace(f"only {have} MiB are left on the disk of {folder}, expected {need} ({reserve} stay free)")


def read_video(entry: Entry, label: int, payload: Payload) -> tuple[Record, str]:
    """(record, warning or empty); raises BadVideo with the reason where the video is of no use."""
    if entry.path.is_dir():
        record = store_images(list_images(entry.path, *entry.images), payload)
        warning = ONE_FRAME if record.num_frames == 1 else ""
    elif entry.path.stat().st_size > MAX_BYTES:  # before it fills the memory
        raise BadVideo(f"{entry.path.stat().st_size} bytes, more than {MAX_BYTES}: cut or re-encode it")
    else:
        record, info = store(entry.path.read_bytes(), payload)
        warning = info.warning
    if entry.annotation:
        try:
            annotations.decode(entry.annotation).check(record.num_frames)
        except ValueError as error:
            raise BadVideo(str(error)) from error
    record = replace(record, key=entry.key, label=label, label_name=entry.label, annotation=entry.annotation)
    return record, warning


class _Worker:
    """A process that writes one shard at a time, and where it is."""

    def __init__(self, context):
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.job, self.number, self.result, self.done, self.offset, self.since = None, -1, None, 0, 0, 0.0

    def start(self, number: int, job: ShardJob, result: ShardResult, done: int = 0, offset: int = 0) -> None:
        self.job, self.number, self.result, self.done, self.offset = job, number, result, done, offset
        self.since = math.inf  # not at work yet
        self.pipe.send((job, done, offset))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe) -> None:
    """Main function of a worker process."""
    import av  # noqa: F401 - slow, and not the first video's fault

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    time_limit.end_with_parent()  # also one that was killed: no other may write to a shard that is continued
    while True:
        try:
            job, first, offset = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send("started")  # from here on the time counts
            for message in write_records(job, first, offset):
                pipe.send(message)
            pipe.send(None)
        except BrokenPipeError:
            return
        except OSError as error:  # of the shard, not of a video
            pipe.send(error)


def _write_in_processes(jobs, left: list[int], workers: int, timeout: float, progress) -> dict[int, ShardResult]:
    context, results, todo = multiprocessing.get_context("spawn"), {}, left[::-1]
    pool = [_Worker(context) for _ in range(min(workers, len(left)))]
    try:
        while len(results) < len(left):
            for worker in pool:
                if worker.job is None and todo:
                    number = todo.pop()
                    worker.start(number, jobs[number], ShardResult())
            busy = [worker for worker in pool if worker.job is not None]
            ready = wait([worker.pipe for worker in busy], timeout=1)
            for worker in busy:
                reason = ""
                if worker.pipe in ready:
                    if not _receive(worker, results, progress):
                        worker.process.join()
                        reason = f"crashed the decoder ({_exit_name(worker.process.exitcode)})"
                elif time.monotonic() - worker.since > timeout:
                    reason = f"took more than {timeout:g} s"
                if reason:
                    pool[pool.index(worker)] = _replace(worker, context, reason, progress)
    finally:
        for worker in pool:
            worker.end()
            if worker.job is not None:
                records.partial_path(worker.job.path).unlink(missing_ok=True)
    return results


def _receive(worker: _Worker, results: dict[int, ShardResult], progress) -> bool:
    """Books one message; a finished job leaves the worker idle. False where the process is dead."""
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionError):
        return False
    if isinstance(message, OSError):
        raise message
    if message is None:
        results[worker.number], worker.job = _finish(worker.job, worker.result), None
        return True
    worker.since = time.monotonic()
    if message != "started":
        reason, warning, worker.offset = message
        worker.result.book(worker.job.entries[worker.done], reason, warning)
        worker.done += 1
        progress(1)
    return True


def _replace(worker: _Worker, context, reason: str, progress) -> _Worker:
    """A new worker that goes on behind the video at fault."""
    worker.end()
    if worker.done < len(worker.job.entries):
        worker.result.book(worker.job.entries[worker.done], reason, "")
        progress(1)
    new = _Worker(context)
    new.start(worker.number, worker.job, worker.result, worker.done + 1, worker.offset)
    return new


def _exit_name(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def clear(out: Path, name: str, split: str, jobs: list[ShardJob]) -> int:
    """Removes what a killed run left unfinished or made of something else; finished shards of these jobs stay.

    Returns how many finished shards were removed.
    """
    keep, finished = {path for job in jobs if read_note(job) for path in (job.path, job.note)}, 0
    for path in out.glob(f"{name}-{split}-*-of-*.tfrecord*"):
        if path not in keep:
            finished += path.name.endswith(_NOTE)
            path.unlink()
    for path in out.glob(f"{name}-{split}.index.npz.*.partial"):
        path.unlink()
    return finished


def remove_notes(jobs: list[ShardJob]) -> None:
    """The report holds them now."""
    for job in jobs:
        job.note.unlink(missing_ok=True)
