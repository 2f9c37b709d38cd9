"""Synthetic videos as JPEG shards of the size of real ones, without any video library.

    python -m sigma_jax.tools.benchmarks.jpeg_shards --out=DIR [--videos=160 --frames=120 --workers=8]

A smooth moving texture with a little grain, so that a frame has about the bytes of a real one (20 to 30 kB at quality
90). Prints one line of JSON.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from sigma_jax.data import metadata, records
from sigma_jax.data.schema import Record

HEIGHT, WIDTH, QUALITY = 256, 340, 90


def render(seed: int, frames: int) -> tuple[bytes, ...]:
    """The JPEG frames of one video."""
    rng = np.random.default_rng(seed)
    texture = np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.float32)
    for cells, weight in ((6, 0.6), (24, 0.28), (96, 0.12)):  # coarse to fine
        noise = rng.integers(0, 256, (cells, cells * 4 // 3, 3)).astype(np.uint8)
        texture += weight * cv2.resize(noise, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    velocity, out = rng.uniform(-2.0, 2.0, 2), []
    for i in range(frames):
        y, x = (int(side / 2 + v * i) % side for v, side in zip(velocity, (HEIGHT, WIDTH), strict=True))
        grain = cv2.resize(rng.standard_normal((HEIGHT // 2, WIDTH // 2)).astype(np.float32), (WIDTH, HEIGHT))
        frame = np.clip(texture[y : y + HEIGHT, x : x + WIDTH] + 8 * grain[..., None], 0, 255).astype(np.uint8)
        out.append(simplejpeg.encode_jpeg(np.ascontiguousarray(frame), QUALITY, "RGB", "420"))
    return tuple(out)


def write_shard(path: Path, seeds: range, frames: int) -> tuple[int, int]:
    """(records, bytes) of the shard."""
    cv2.setNumThreads(1)
    with records.ShardWriter(path) as writer:
        for seed in seeds:
            facts = {"num_frames": frames, "height": HEIGHT, "width": WIDTH, "fps": 25.0}
            writer.write(Record(key=f"{seed:06d}", frames=render(seed, frames), **facts))
    return len(seeds), path.stat().st_size


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in (("videos", 160), ("frames", 120), ("workers", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    edges = np.linspace(0, args.videos, args.workers + 1).astype(int).tolist()
    names = [args.out / records.shard_name("k400", "train", i, args.workers) for i in range(args.workers)]
    parts = [range(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        written = list(pool.map(write_shard, names, parts, [args.frames] * args.workers))
    lengths, sizes = zip(*written, strict=True)
    metadata.write_metadata(args.out, "k400", "train", list(lengths), sum(sizes), "jpeg")
    records.build_index(args.out, "train")
    print(json.dumps({"median_s": time.perf_counter() - begin, "videos": sum(lengths), "mb": sum(sizes) / 1e6}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
