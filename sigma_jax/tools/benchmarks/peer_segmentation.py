"""Clustering of video features with PyTorch and faiss, to be measured beside ours.

    python -m sigma_jax.tools.bench segmentation --vs=faiss [--peer_python=PYTHON]
    python -m sigma_jax.tools.benchmarks.peer_segmentation --clips=30                  (alone)

The usual program (TimeT's protocol, Salehi et al. 2023): features are standardised and reduced by faiss's PCA over a
batch of clips, enlarged to the frames with torch's bilinear interpolation, clustered with faiss's k-means and matched
with the Hungarian method. It was written for this comparison and needs no JAX, but the packages of the extra [peer].
Prints a line of JSON with "median_s", seconds per clip.
"""

import argparse
import dataclasses
import json
import sys

import numpy as np

from sigma_jax.tools.benchmarks.segmentation_clips import FRAMES, STEP, BenchSpec, measure_batches

DIMS, ITERATIONS, RESTARTS, SEED = 50, 50, 5, 1


def parse(argv: list[str] | None) -> BenchSpec:
    """The sizes; every field of BenchSpec is a flag."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(BenchSpec):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    return BenchSpec(**vars(parser.parse_args(argv)))


def reduce_batch(tokens: list[np.ndarray]) -> list[np.ndarray]:
    """Features [t h w D] of each clip -> float32 [t h w d], with the statistics of all."""
    import faiss

    width = tokens[0].shape[-1]
    joint = np.concatenate([clip.reshape(-1, width) for clip in tokens])
    joint = np.ascontiguousarray((joint - joint.mean(axis=0)) / np.maximum(joint.std(axis=0), 1e-12), np.float32)
    pca = faiss.PCAMatrix(width, min(DIMS, width))
    pca.train(joint)
    reduced = pca.apply(joint)
    return [
        part.reshape(*clip.shape[:3], -1) for part, clip in zip(np.split(reduced, len(tokens)), tokens, strict=True)
    ]


def cluster_map(features: np.ndarray, num_clusters: int, side: int) -> np.ndarray:
    """[t h w d] -> clusters int [F y x]."""
    import faiss
    import torch

    maps = torch.from_numpy(features).permute(0, 3, 1, 2).repeat_interleave(STEP, dim=0)
    large = torch.nn.functional.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
    points = large.permute(0, 2, 3, 1).reshape(-1, features.shape[-1]).numpy()
    kmeans = faiss.Kmeans(points.shape[1], num_clusters, niter=ITERATIONS, nredo=RESTARTS, seed=SEED)
    kmeans.train(points)
    return kmeans.index.search(points, 1)[1].reshape(FRAMES, side, side)


def miou(labels: np.ndarray, clusters: np.ndarray, is_one_to_one: bool) -> float:
    """Mean IoU over the objects of a clip, background included, after matching; one to one, or greedy by precision."""
    from scipy.optimize import linear_sum_assignment

    objects, names = np.unique(labels), np.unique(clusters)
    common = np.array([[((labels == o) & (clusters == c)).sum() for c in names] for o in objects])
    of_cluster = np.zeros(len(names), int)  # unmatched clusters are background
    if is_one_to_one:
        union = common.sum(1, keepdims=True) + common.sum(0) - common
        rows, columns = linear_sum_assignment(common / union, maximize=True)
        of_cluster[columns] = rows
    else:
        of_cluster = (common / common.sum(0)).argmax(0)
    predicted = np.stack([common[:, of_cluster == o].sum(1) for o in range(len(objects))], axis=1)
    hits = np.diag(predicted)
    return float(np.mean(hits / (predicted.sum(0) + predicted.sum(1) - hits)))


def main(argv: list[str] | None = None) -> int:
    """Measures and prints the row."""
    spec = parse(argv)
    try:
        import faiss
        import torch
    except ImportError as error:
        print(f"{error}: the peer needs PyTorch and faiss, pip install torch faiss-cpu", file=sys.stderr)
        return 1

    def score(tokens: list[np.ndarray], labels: list[np.ndarray]) -> list[float]:
        is_one_to_one, scores = spec.protocol == "clustering", []
        for features, truth in zip(reduce_batch(tokens), labels, strict=True):
            num_clusters = len(np.unique(truth)) if is_one_to_one else spec.num_clusters
            scores.append(miou(truth, cluster_map(features, num_clusters, spec.side), is_one_to_one))
        return scores

    row = measure_batches(spec, score)
    print(json.dumps(row | {"versions": f"torch {torch.__version__} faiss {faiss.__version__}"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
