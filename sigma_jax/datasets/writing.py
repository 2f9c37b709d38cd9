"""Writes shards in processes that may hang or crash: the video that causes it is refused, everything else is kept.

A process of the pool appends one video to one shard. If it dies or takes too long, that video is refused with the
reason, and the next one overwrites what it may have written after the last good record. A video whose process somebody
else ended is read once more. A finished shard has a note beside it (`.done.json`) with its result and a fingerprint of
its videos and settings; a shard with the same fingerprint is not written again.
"""

import hashlib
import multiprocessing
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from sigma_jax.data import annotations, metadata, records, time_limit
from sigma_jax.data.decode import ONE_FRAME, BadVideo
from sigma_jax.data.schema import Record, encode_record
from sigma_jax.datasets.frame_folders import choose_frames, folder_stamp
from sigma_jax.datasets.listing import Entry, Refusal
from sigma_jax.datasets.payload import MAX_BYTES, Payload, store, store_frames
from sigma_jax.runtime import signals
from sigma_jax.runtime.errors import Failed, UserError

_NOTE = ".done.json"
_RESERVE = 64 * 2**20  # bytes that stay free on the disk
# By these a process is ended from outside (the last also by a system without memory); a decoder's crash has others.
OTHERS_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGKILL)


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
        """A hash of the videos (names, sizes, modification times), their labels and the payload."""
        digest = hashlib.sha256(repr(self.payload).encode())
        for entry in self.entries:
            stat = entry.path.stat() if entry.path.exists() else None
            seen = (stat.st_size, stat.st_mtime_ns) if stat else None
            if entry.path.is_dir():
                seen = folder_stamp(entry.path)
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
    """The result of a shard that is finished already; None if it is not, or has another fingerprint."""
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
      jobs: the shards.
      workers: processes; 0 writes in this process, without protection against decoders that hang or crash.
      timeout: seconds for one video.

    Raises:
      OutOfSpace: no room on the disk of the shards.
    """
    results = {job.path: result for job in jobs if (result := read_note(job)) is not None}
    for job in jobs:
        if job.path in results:
            progress(len(job.entries))
    left = [job for job in jobs if job.path not in results]
    if workers:
        full = [job for job in left if job.entries]
        results |= {job.path: result for job, result in _write_in_processes(full, workers, timeout, progress)}
    results |= {job.path: write_here(job, progress) for job in left if job.path not in results}
    yield from (results[job.path] for job in jobs)


def write_note(path: Path, fingerprint: str, result: ShardResult) -> None:
    """Writes the note of a finished shard, see read_note."""
    lists = {name: [asdict(item) for item in getattr(result, name)] for name in ("refused", "warnings")}
    note = {"num_records": result.num_records, "num_bytes": result.num_bytes, "classes": dict(result.classes), **lists}
    metadata.write_json(path, {"fingerprint": fingerprint, **note})


def check_room(folder: Path, num_bytes: int, reused: int = 0) -> None:
    """Raises OutOfSpace if the disk of `folder` has no room for so many bytes, `reused` of which are there already."""
    free = shutil.disk_usage(folder).free + reused
    if free < _RESERVE + num_bytes:
        have, need, reserve = (round(size / 2**20) for size in (free, _RESERVE + num_bytes, _RESERVE))
        raise OutOfSpace(f"only {have} MiB are left on the disk of {folder}, expected {need} ({reserve} stay free)")


def read_video(entry: Entry, label: int, payload: Payload) -> tuple[Record, str]:
    """(record, warning or ""); raises BadVideo with the reason if the video is unusable."""
    if entry.path.is_dir():
        frames, warning = choose_frames(entry.path, *entry.images)
        record = store_frames(frames, payload)
        warning, times = warning or (ONE_FRAME if record.num_frames == 1 else ""), ()
    elif entry.path.stat().st_size > MAX_BYTES:  # before it fills the memory
        raise BadVideo(f"{entry.path.stat().st_size} bytes, more than {MAX_BYTES}: cut or re-encode it")
    else:
        record, info = store(entry.path.read_bytes(), payload)
        warning, times = info.warning, info.times
    told = _annotation_of(entry, record.num_frames, times)
    return replace(record, key=entry.key, label=label, label_name=entry.label, annotation=told), warning


def _annotation_of(entry: Entry, num_frames: int, times: Sequence[float]) -> str:
    """The annotation to be stored, with seconds converted to frames if the times of the frames are known."""
    if not entry.annotation:
        return ""
    try:
        annotation = annotations.decode(entry.annotation)
        annotation.check(num_frames)
    except ValueError as error:
        raise BadVideo(str(error)) from error
    return annotations.encode(annotation.in_frames(times) if isinstance(annotation, annotations.Labels) else annotation)


class _OpenShard:
    """A shard that is being written; the results of its first `done` videos are recorded."""

    def __init__(self, job: ShardJob):
        self.job, self.result, self.done, self.size = job, ShardResult(), 0, 0
        self.retried = -1  # the last video that was read again

    @property
    def is_complete(self) -> bool:
        return self.done == len(self.job.entries)

    def next_step(self) -> tuple[Path, int, Entry, int, Payload]:
        """Arguments of append_video for the next video."""
        entry = self.job.entries[self.done]
        return self.job.path, self.size, entry, self.job.labels[entry.label], self.job.payload

    def book(self, reason: str, warning: str = "", size: int | None = None) -> None:
        """Records the result of the next video, and the size of the file after it (None: unchanged)."""
        self.result.book(self.job.entries[self.done], reason, warning)
        self.done, self.size = self.done + 1, self.size if size is None else size

    def finish(self) -> ShardResult:
        records.finish_shard(self.job.path)
        self.result.num_bytes = self.size
        write_note(self.job.note, self.job.fingerprint(), self.result)
        return self.result


def append_video(path: Path, size: int, entry: Entry, label: int, payload: Payload) -> tuple[str, str, int]:
    """Appends a video to an unfinished shard of `size` bytes.

    Returns:
      (the reason why it was refused or "", a warning or "", the new size of the shard).

    Raises:
      OSError: the shard cannot be written; OutOfSpace is one of these.
    """
    try:
        record, warning = read_video(entry, label, payload)
    except (BadVideo, OSError) as error:
        return str(error) or type(error).__name__, "", size
    encoded = encode_record(record)
    check_room(path.parent, 2 * len(encoded))
    return "", warning, records.append_payload(path, size, encoded)


def write_here(job: ShardJob, progress: Callable[[int], object]) -> ShardResult:
    """Writes one shard in this process."""
    shard = _OpenShard(job)
    records.partial_path(job.path).unlink(missing_ok=True)
    try:
        while not shard.is_complete:
            shard.book(*append_video(*shard.next_step()))
            progress(1)
        return shard.finish()
    except BaseException:
        records.partial_path(job.path).unlink(missing_ok=True)
        raise


def _append_in_worker(*step) -> tuple[str, str, int] | OSError:
    """append_video with OSErrors returned: a raised TimeoutError would be taken for the pool's time limit."""
    try:
        return append_video(*step)
    except OSError as error:
        return error


def _start_worker() -> None:
    import av  # noqa: F401 - slow: it must not count towards the first video's time limit

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a Python handler would not run while a decoder hangs
    time_limit.end_with_parent()  # also one that was killed: no other may write to a shard that is continued


def _write_in_processes(
    jobs: list[ShardJob], workers: int, timeout: float, progress: Callable[[int], object]
) -> Iterator[tuple[ShardJob, ShardResult]]:
    """Yields (job, result) of every shard when it is finished; each process writes the next video of an open shard."""
    context, todo, running = multiprocessing.get_context("spawn"), jobs[::-1], {}
    pool = ProcessPool(min(workers, len(jobs)), initializer=_start_worker, context=context)
    try:
        while todo or running:
            while todo and len(running) < workers:
                shard = _OpenShard(todo.pop())
                records.partial_path(shard.job.path).unlink(missing_ok=True)
                with signals.shielded():  # the first one starts pebble's threads, and these the processes
                    running[pool.schedule(_append_in_worker, args=shard.next_step(), timeout=timeout)] = shard
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                shard = running[future]
                outcome = _outcome(future, timeout, last=shard.retried == shard.done)
                if outcome is None:
                    shard.retried = shard.done
                else:
                    shard.book(*outcome)
                    progress(1)
                del running[future]  # not before: what was interrupted is removed below
                if shard.is_complete:
                    yield shard.job, shard.finish()
                else:
                    running[pool.schedule(_append_in_worker, args=shard.next_step(), timeout=timeout)] = shard
    finally:
        pool.stop()
        pool.join()
        for shard in running.values():
            records.partial_path(shard.job.path).unlink(missing_ok=True)


def _outcome(future: Future, timeout: float, last: bool) -> tuple | None:
    """The result of append_video, or the reason why its process did not return one.

    None: somebody ended the process, which says nothing about the video, and this was not the `last` attempt.
    """
    try:
        found = future.result()
    except TimeoutError:
        return (f"took more than {timeout:g} s",)
    except ProcessExpired as error:
        if not last and -error.exitcode in OTHERS_SIGNALS:
            return None
        return (f"crashed the decoder ({_exit_name(error.exitcode)})",)
    except BrokenProcessPool as error:
        raise Failed(f"the processes that read videos do not start ({error}): --workers=0 reads in this one") from error
    if isinstance(found, OSError):
        raise found
    return found


def _exit_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def clear(out: Path, name: str, split: str, jobs: list[ShardJob]) -> int:
    """Removes unfinished shards of a killed run, and shards with another fingerprint; finished shards of jobs stay.

    Returns:
      How many finished shards were removed.
    """
    keep, finished = {path for job in jobs if read_note(job) for path in (job.path, job.note)}, 0
    for path in out.glob(f"{name}-{split}-*-of-*.tfrecord*"):
        if path not in keep:
            finished += path.name.endswith(_NOTE)
            path.unlink()
    for pattern in (f"{name}-{split}.index.npz.*", "*.json.*", "label_map.txt.*"):
        for path in out.glob(f"{pattern}.partial"):
            path.unlink()
    return finished


def remove_notes(jobs: list[ShardJob]) -> None:
    """Removes the notes of shards, once the report of the data set is written."""
    for job in jobs:
        job.note.unlink(missing_ok=True)
