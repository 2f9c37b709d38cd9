"""How fast clips come out of shards, by number of reading processes.

  python -m sigma_jax.tools.bench data --data_dir=DIR [--split=train] [--workers=0,1,2] [--clips=256] [--json]
  python -m sigma_jax.tools.bench data --data_dir=DIR --decoder=torchcodec
  python -m sigma_jax.tools.bench data --data_dir=DIR --workers=2 --batch=32 --steps=2000

A row per number of workers (0: in this process, one clip at a time, which is the cleanest count of processor time).
`clips_per_cpu_s` counts processor time of this process and its workers; `clips_per_s` is wall time; `wait_ms` is what a
step of --batch clips would wait for data on a device that consumes --device_rate clips a second. The row `decord+PIL`
is the usual reader of the field on the same videos, where the package decord is installed and the payload is video; it
runs in turn with ours, and `ours_to_peer` is the ratio of clips per CPU-second. `index_*` is the rate of building the
index. With --steps so many batches are read instead of --clips, and `rss_mb` has ten readings of the memory of all
processes together, evenly spaced (pages that processes share count for each).
"""

import argparse
import io
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sigma_jax.data import augment, metadata, sampling
from sigma_jax.data.clips import ClipReader, ClipSpec
from sigma_jax.data.decoders import DECODERS, Decoding
from sigma_jax.data.loader import LoaderSpec, Shuffled, Workers, open_loader
from sigma_jax.data.records import RecordSource, scan_offsets
from sigma_jax.data.schema import Record
from sigma_jax.data.source import Source, open_source
from sigma_jax.runtime.command import Command, command_parser, leave, natural, positive


def bench(args: argparse.Namespace) -> int:
    """Prints a row per number of workers."""
    args.decoding = Decoding(args.decoder)
    spec = ClipSpec(args.num_frames, args.frame_stride, args.image_size, "multi_scale")
    for row in measure(args, spec, open_source(args.data_dir, args.split)):
        _show(row, args.json)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("bench data", __doc__)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--workers", type=_naturals, default=[0, 1, 2], help="processes of each row, such as 0,2")
    parser.add_argument("--clips", type=positive, default=256, help="timed, per row")
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--steps", type=natural, default=0, help="batches, instead of --clips; also shows the memory")
    parser.add_argument("--device_rate", type=float, default=570.0, help="clips a second; 570: ViT-B on one H200, goal")
    parser.add_argument("--decoder", default="auto", choices=sorted(DECODERS), help="of videos")
    parser.add_argument("--num_frames", type=positive, default=16)
    parser.add_argument("--frame_stride", type=positive, default=4)
    parser.add_argument("--image_size", type=positive, default=224)
    parser.add_argument("--json", action="store_true", help="one object a row")
    args = parser.parse_args(argv)
    if args.device_rate <= 0:
        parser.error(f"--device_rate={args.device_rate}: expected more than 0")
    return args


def _naturals(text: str) -> list[int]:
    return [natural(word) for word in text.split(",")]


def measure(args: argparse.Namespace, spec: ClipSpec, source) -> Iterator[dict]:
    """A row per number of workers, and one of decord + Pillow where that can be had."""
    record = source[0]
    facts = {"payload": _payload(args, record), "height": record.height, "width": record.width}
    facts["decoder"] = "simplejpeg" if record.frames else args.decoder
    facts |= _index_rate(source)
    for workers in args.workers:
        named, memory = facts | {"reader": "ours", "workers": workers}, []
        here = workers == 0 and not args.steps
        measured = _read_here(args, spec, source) if here else _read_loader(args, workers, memory)
        yield _row(args, named, *measured) | ({"rss_mb": memory} if memory else {})
    peer = None if record.frames or args.steps else _decord_reader(spec)
    if peer:
        named = facts | {"reader": "decord+PIL", "decoder": "decord", "workers": 0}
        ours = ClipReader(source, spec, cache_decoded=False, decoding=args.decoding).read
        measured, ratio = _in_turn(lambda i, rng: peer(source[i], rng), ours, len(source), args.clips)
        yield _row(args, named, *measured) | {"ours_to_peer": round(ratio, 3)}


def _in_turn(peer, ours, count: int, clips: int) -> tuple[tuple[float, float, int], float]:
    """(wall and processor seconds and clips of `peer`, processor seconds of `peer` over those of `ours`)."""
    each = max(clips // (4 * _ROUNDS), 1)
    _time_clips(peer, count, 2)
    _time_clips(ours, count, 2)
    pairs = [(_time_clips(peer, count, each), _time_clips(ours, count, each)) for _ in range(_ROUNDS)]
    wall, cpu, done = (sum(column) for column in zip(*(pair[0] for pair in pairs), strict=True))
    return (wall, cpu, done), cpu / sum(pair[1][1] for pair in pairs)


def _index_rate(source: Source) -> dict[str, float]:
    """Records and MB of shards a second while offsets are found; empty for array_record, which needs no index."""
    if not isinstance(source, RecordSource):
        return {}
    start = time.perf_counter()
    records = sum(len(scan_offsets(path)) for path in source.shards)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in source.shards) / 1e6
    return {"index_records_per_s": round(records / seconds), "index_mb_per_s": round(size / seconds)}


def _payload(args: argparse.Namespace, record: Record) -> str:
    """What `prepare` says it stored, or what the record looks like."""
    report = metadata.read_reports(args.data_dir).get(args.split, {})
    return report.get("payload", {}).get("kind") or ("jpeg" if record.frames else "video")


def _row(args: argparse.Namespace, facts: dict, seconds: float, cpu: float, clips: int) -> dict:
    rate = clips / seconds
    wait = max(args.batch / rate - args.batch / args.device_rate, 0.0)
    numbers = {"clips_per_cpu_s": clips / cpu, "clips_per_s": rate, "wait_ms": 1000 * wait}
    memory = {"peak_mb": sum(resource.getrusage(who).ru_maxrss for who in _EVERYONE) / 1024}
    return facts | {"batch": args.batch, "clips": clips} | {k: round(v, 4) for k, v in (numbers | memory).items()}


_ROUNDS = 4  # of ours and the peer in turn
_EVERYONE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    """Of this process and its ended children."""
    usage = [resource.getrusage(who) for who in _EVERYONE]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def _time_clips(read, count: int, clips: int) -> tuple[float, float, int]:
    """(wall seconds, processor seconds, clips) of reading `clips` records in turn."""
    rng, wall, cpu = np.random.default_rng(0), time.perf_counter(), _cpu_seconds()
    for number in range(clips):
        read(number % count, rng)
    return time.perf_counter() - wall, _cpu_seconds() - cpu, clips


def _read_here(args: argparse.Namespace, spec: ClipSpec, source) -> tuple[float, float, int]:
    reader = ClipReader(source, spec, cache_decoded=False, decoding=args.decoding)
    _time_clips(reader.read, len(source), min(8, args.clips))
    return _time_clips(reader.read, len(source), args.clips)


def _read_loader(args: argparse.Namespace, workers: int, memory: list[float]) -> tuple[float, float, int]:
    """Steady rate of a loader after its first two batches; with --steps, fills in MB of all processes.

    A worker's processor time is known when it has ended, so that of starting is measured apart and taken off.
    """
    start = _run_loader(args, workers, 0, [])
    whole = _run_loader(args, workers, args.steps or max(-(-args.clips // args.batch), 1), memory)
    return whole[0], max(whole[1] - start[1], 1e-9), whole[2]


def _run_loader(args: argparse.Namespace, workers: int, batches: int, memory: list[float]) -> tuple[float, float, int]:
    """(wall seconds of `batches`, processor seconds of everything, clips counted), after two batches of warm-up."""
    cpu = _cpu_seconds()
    clips = ClipSpec(args.num_frames, args.frame_stride, args.image_size, "multi_scale")
    spec = LoaderSpec(args.data_dir, args.split, clips, Shuffled(0), args.batch, Workers(workers), args.decoding)
    loader = open_loader(spec)
    try:
        next(loader), next(loader)
        wall = time.perf_counter()
        for step in range(1, batches + 1):
            next(loader)
            if args.steps and (10 * step) // batches > (10 * (step - 1)) // batches:
                memory.append(round(_memory_mb(os.getpid())))
        wall = time.perf_counter() - wall
    finally:
        loader.close()
    return wall, _cpu_seconds() - cpu, batches * args.batch


def _memory_mb(process: int) -> float:
    """Resident memory of a process and everything below it; 0 for one that has ended."""
    folder = Path("/proc", str(process))
    try:
        pages = int((folder / "statm").read_text().split()[1])
        children = " ".join(path.read_text() for path in folder.glob("task/*/children")).split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * resource.getpagesize() / 2**20 + sum(_memory_mb(int(child)) for child in children)


def _decord_reader(spec: ClipSpec):
    """Function (record, rng) -> clip, the way the published code reads; None where decord is not installed."""
    try:
        import decord
    except ImportError:
        return None

    def read(record: Record, rng: np.random.Generator) -> np.ndarray:
        video = decord.VideoReader(io.BytesIO(record.video), num_threads=1)
        frames = sampling.pretrain_indices(len(video), spec.num_frames, spec.frame_stride, rng)
        images = [Image.fromarray(image) for image in video.get_batch(frames).asnumpy()]
        size, (width, height) = spec.image_size, images[0].size
        top, left, h, w = augment.multi_scale_crop_box(height, width, size, rng)
        crops = [image.crop((left, top, left + w, top + h)) for image in images]
        return np.stack([np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)) for crop in crops])

    return read


def _show(row: dict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(row), flush=True)
    else:
        print("  ".join(f"{name}={value}" for name, value in row.items()), flush=True)


main = Command("bench data", _parse, bench)

if __name__ == "__main__":
    leave(main())
