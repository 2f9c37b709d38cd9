"""How fast clips come out of shards, by number of reading processes.

  python -m sigma_jax.tools.bench data --data_dir=DIR [--split=train] [--workers=0,1,2] [--clips=256] [--json]
  python -m sigma_jax.tools.bench data --data_dir=DIR --decoder=torchcodec

A row per number of workers (0: in this process, one clip at a time, which is the cleanest count of processor time).
`clips_per_cpu_s` counts processor time of this process and its workers; `clips_per_s` is wall time; `wait_ms` is what a
step of --batch clips would wait for data on a device that consumes --device_rate clips a second. The row `decord+PIL`
is the usual reader of the field on the same videos, where the package decord is installed and the payload is video.
"""

import argparse
import io
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sigma_jax.data import augment, metadata, sampling
from sigma_jax.data.clips import ClipReader, ClipSpec
from sigma_jax.data.decoders import DECODERS, Decoding
from sigma_jax.data.pipeline import open_source, pretrain_loader
from sigma_jax.data.schema import Record


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    try:
        args.decoding = Decoding(args.decoder)
    except ValueError as error:
        print(f"bench data: {error}", file=sys.stderr)
        return 1
    spec = ClipSpec(args.num_frames, args.frame_stride, args.image_size, "multi_scale")
    source = open_source(args.data_dir, args.split)
    try:
        for row in measure(args, spec, source):
            _show(row, args.json)
    except RuntimeError as error:
        print(f"bench data: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--workers", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=256, help="timed, per row")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device_rate", type=float, default=570.0, help="clips a second; 570: ViT-B on one H200, goal")
    parser.add_argument("--decoder", default="auto", choices=sorted(DECODERS), help="of videos")
    parser.add_argument("--num_frames", type=int, default=16)
    parser.add_argument("--frame_stride", type=int, default=4)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--json", action="store_true", help="one object a row")
    args = parser.parse_args(argv)
    if min(args.clips, args.batch, args.device_rate) <= 0 or min(args.workers) < 0:
        parser.error("--clips, --batch and --device_rate must be positive, --workers not negative")
    return args


def measure(args: argparse.Namespace, spec: ClipSpec, source) -> Iterator[dict]:
    """A row per number of workers, and one of decord + Pillow where that can be had."""
    record = source[0]
    facts = {"payload": _payload(args, record), "height": record.height, "width": record.width}
    facts["decoder"] = "simplejpeg" if record.frames else args.decoder
    for workers in args.workers:
        seconds, cpu, clips = _read_here(args, spec, source) if workers == 0 else _read_loader(args, workers)
        yield _row(args, facts | {"reader": "ours", "workers": workers}, seconds, cpu, clips)
    peer = None if record.frames else _decord_reader(spec)
    if peer:
        _time_clips(lambda i, rng: peer(source[i], rng), len(source), 2)
        seconds, cpu, clips = _time_clips(lambda i, rng: peer(source[i], rng), len(source), max(args.clips // 4, 1))
        yield _row(args, facts | {"reader": "decord+PIL", "decoder": "decord", "workers": 0}, seconds, cpu, clips)


def _payload(args: argparse.Namespace, record: Record) -> str:
    """What `prepare` says it stored, or what the record looks like."""
    report = metadata.read_json(args.data_dir / "prepare_report.json").get(args.split, {})
    return report.get("payload", {}).get("kind") or ("jpeg" if record.frames else "video")


def _row(args: argparse.Namespace, facts: dict, seconds: float, cpu: float, clips: int) -> dict:
    rate = clips / seconds
    wait = max(args.batch / rate - args.batch / args.device_rate, 0.0)
    numbers = {"clips_per_cpu_s": clips / cpu, "clips_per_s": rate, "wait_ms": 1000 * wait}
    memory = {"peak_mb": sum(resource.getrusage(who).ru_maxrss for who in _EVERYONE) / 1024}
    return facts | {"batch": args.batch, "clips": clips} | {k: round(v, 4) for k, v in (numbers | memory).items()}


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


def _read_loader(args: argparse.Namespace, workers: int) -> tuple[float, float, int]:
    """Steady rate of a loader after its first two batches.

    A worker's processor time is known when it has ended, so that of starting is measured apart and taken off.
    """
    start = _run_loader(args, workers, 0)
    whole = _run_loader(args, workers, max(-(-args.clips // args.batch), 1))
    return whole[0], max(whole[1] - start[1], 1e-9), whole[2]


def _run_loader(args: argparse.Namespace, workers: int, batches: int) -> tuple[float, float, int]:
    """(wall seconds of `batches`, processor seconds of everything, clips counted), after two batches of warm-up."""
    cpu = _cpu_seconds()
    loader = pretrain_loader(
        args.data_dir,
        split=args.split,
        num_frames=args.num_frames,
        frame_stride=args.frame_stride,
        image_size=args.image_size,
        global_batch=args.batch,
        seed=0,
        num_workers=workers,
        decoding=args.decoding,
    )
    try:
        next(loader), next(loader)
        wall = time.perf_counter()
        for _ in range(batches):
            next(loader)
        wall = time.perf_counter() - wall
    finally:
        loader.close()
    return wall, _cpu_seconds() - cpu, batches * args.batch


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


if __name__ == "__main__":
    sys.exit(main())
