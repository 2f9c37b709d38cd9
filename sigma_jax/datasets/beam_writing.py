"""Writes the shards of tools.prepare with an Apache Beam pipeline: the same bytes, on any of Beam's runners.

Videos are elements that are read, checked, encoded, and then grouped by shard; each shard is an element that is written
in order. Workers need the folders of videos and shards under the same paths: a shared file system. A finished shard has
the same note beside it as one written locally (writing.py), so a killed pipeline continues, on this runner or another.
"""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sigma_jax.data import time_limit
from sigma_jax.data.decode import BadVideo
from sigma_jax.data.records import ShardWriter
from sigma_jax.data.schema import encode_record
from sigma_jax.datasets.listing import Entry
from sigma_jax.datasets.payload import Payload
from sigma_jax.datasets.writing import (
    ShardJob,
    ShardResult,
    check_room,
    note_of,
    read_note,
    read_video,
    write_here,
    write_note,
)
from sigma_jax.runtime.errors import UserError

# _Shard: (path, fingerprint of its job, number of its videos). _Read: (number of a video in its shard, its entry, the
# encoded record or b"", the reason why it was refused or "", a warning or "").
_Shard = tuple[str, str, int]
_Read = tuple[int, Entry, bytes, str, str]


class PipelineError(UserError, RuntimeError):
    """Beam is missing or its pipeline failed."""


def write_shards(
    jobs: list[ShardJob], *, runner: str, options: list[str], timeout: float, progress: Callable[[int], object]
) -> Iterator[ShardResult]:
    """`writing.write_shards` with a Beam pipeline.

    Args:
      jobs: the shards.
      runner: name of Beam's runner.
      options: command-line options for Beam.
      timeout: seconds for one video.
      progress: called with the number of videos done since the last call.

    Raises:
      PipelineError: apache-beam is not installed, or the pipeline failed; finished shards are kept.
    """
    try:
        import apache_beam as beam  # heavy, and an extra
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise PipelineError(
            f"--runner={runner} needs apache-beam ({error}): pip install -e '.[beam]', or leave --runner out"
        ) from error
    left = [job for job in jobs if read_note(job) is None]
    for job in [job for job in left if not job.entries]:
        write_here(job, progress)
    elements = [element for job in left for element in _elements(job)]
    if elements:
        try:
            with beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options])) as pipeline:
                (
                    pipeline
                    | "videos" >> beam.Create(elements)
                    | "spread" >> beam.Reshuffle()
                    | "read" >> beam.Map(read_one, timeout)
                    | "shards" >> beam.GroupByKey()
                    | "write" >> beam.MapTuple(write_one)
                )
        except (RuntimeError, ValueError) as error:  # Beam's own, and what a worker raised
            reason = str(error).strip().splitlines()[-1]
            raise PipelineError(f"the Beam pipeline failed: {reason}. The same command continues it") from error
    for job in jobs:
        result = read_note(job)
        if result is None:
            raise PipelineError(f"the pipeline ended, but {job.path} is not written: run the same command again")
        progress(len(job.entries))
        yield result


def _elements(job: ShardJob) -> Iterator[tuple[_Shard, int, Entry, int, Payload]]:
    shard = str(job.path), job.fingerprint(), len(job.entries)
    for number, entry in enumerate(job.entries):
        yield shard, number, entry, job.labels[entry.label], job.payload


def read_one(element: tuple[_Shard, int, Entry, int, Payload], timeout: float) -> tuple[_Shard, _Read]:
    """Reads and encodes one video; the reason is set if it is unusable or takes longer than `timeout` seconds."""
    shard, number, entry, label, payload = element
    try:
        record, warning = time_limit.call(timeout, read_video, entry, label, payload)
    except (BadVideo, OSError) as error:
        return shard, (number, entry, b"", str(error) or type(error).__name__, "")
    return shard, (number, entry, encode_record(record), "", warning)


def write_one(shard: _Shard, found: Iterable[_Read]) -> None:
    """Writes one shard and its note; raises OutOfSpace.

    Beam delivers videos in any order, so records are first stored on disk, as a shard may exceed the memory.
    """
    path, fingerprint, count = Path(shard[0]), *shard[1:]
    result, rest = ShardResult(), {}
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # a runner may run an element twice at the same time
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as folder:
        for number, entry, payload, *told in found:
            if payload:
                check_room(path.parent, 2 * len(payload))
                Path(folder, str(number)).write_bytes(payload)
            rest[number] = entry, bool(payload), *told
        if sorted(rest) != list(range(count)):
            raise RuntimeError(f"{path}: got {len(rest)} of {count} videos")
        with ShardWriter(own) as writer:
            for number in range(count):
                entry, good, reason, warning = rest[number]
                if good:
                    waiting = Path(folder, str(number))
                    writer.write_payload(waiting.read_bytes())
                    waiting.unlink()
                result.book(entry, reason, warning)
    os.replace(own, path)
    result.num_bytes = path.stat().st_size
    write_note(note_of(path), fingerprint, result)
