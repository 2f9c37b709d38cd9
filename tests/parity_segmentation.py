"""Parity of Benchmark II with numbers made by other people's public code (tests/goldens/benchmarks/README.md).

uvos_*: TimeT and faiss. vos_propagation: DINO. vos_propagation_dinov3: DINOv3.
"""

import json

import numpy as np

from sigma_jax.evals.segmentation import clustering, frames, kmeans, layouts, matching, propagation
from tests.parity import Row, compare

MATCHES = {"hung": "hungarian", "prec": "precision", "iou": "iou"}


def uvos_match(arrays: dict) -> list[Row]:
    rows = []
    for case in arrays["_cases"].tolist():
        gt, pred = arrays[f"{case}/gt"], arrays[f"{case}/pred"]
        objects, clusters, pixels = matching.overlap(gt, pred)
        rows += [
            compare(f"{case} gt_labels", objects, arrays[f"{case}/gt_labels"], 0),
            compare(f"{case} pred_labels", clusters, arrays[f"{case}/pred_labels"], 0),
            compare(f"{case} iou_matrix", matching.iou_matrix(pixels), arrays[f"{case}/iou_matrix"], 1e-9),
            compare(f"{case} prec_matrix", matching.precision_matrix(pixels), arrays[f"{case}/prec_matrix"], 1e-9),
        ]
        for prefix, match in MATCHES.items():
            ours = matching.match_clip(gt, pred, match)
            theirs = {
                "map": (ours.cluster_object, 0),
                "relabelled": (ours.relabel(pred), 0),
                "tp": (ours.tp, 0),
                "fp": (ours.fp, 0),
                "fn": (ours.fn, 0),
                "class_iou": (ours.iou, 1e-9),
                "miou": (ours.miou, 1e-9),
                "miou_nobg": (ours.miou_without_background, 1e-9),
            }
            rows += [
                compare(f"{case} {prefix}_{name}", value, arrays[f"{case}/{prefix}_{name}"], limit)
                for name, (value, limit) in theirs.items()
            ]
    return rows


def uvos_batch(arrays: dict) -> list[Row]:
    rows, size = [], int(arrays["batch_size"])
    pairs = list(zip(arrays["gt"], arrays["pred"], strict=True))
    for prefix, match in MATCHES.items():
        for pool in ("sample", "frame"):
            if pool == "sample":
                scores = [matching.match_clip(gt, pred, match).miou for gt, pred in pairs]
            else:
                scores = [
                    np.mean([matching.match_clip(*frame, match).miou for frame in zip(gt, pred, strict=True)])
                    for gt, pred in pairs
                ]
            batches = [np.mean(scores[low : low + size]) for low in range(0, len(scores), size)]
            ours = {
                "per_clip": scores,
                "per_batch": batches,
                "timet": matching.average(scores, "timet", size),
                "plain_mean": matching.average(scores),
            }
            rows += [
                compare(f"{prefix} {pool} {name}", value, arrays[f"{prefix}_{pool}_{name}"], 1e-9)
                for name, value in ours.items()
            ]
    return rows


def uvos_input(arrays: dict) -> list[Row]:
    rows, side = [], int(arrays["R"])
    for case in sorted({key.split("_")[0] for key in arrays if key.endswith("_frames")}):
        small = np.stack([frames.resize_frame(frame, (side, side)) for frame in arrays[f"{case}_frames"]])
        masks = np.stack([frames.resize_mask(mask, (side, side)) for mask in arrays[f"{case}_masks"]])
        clip = np.moveaxis((small / 255 - frames.MEAN) / frames.STD_TIMET, -1, 1)
        rows += [
            compare(f"{case} resized", small, arrays[f"{case}_resized_uint8"], 1),
            compare(f"{case} clip", clip, arrays[f"{case}_clip"], 2e-2),
            compare(f"{case} masks", masks, arrays[f"{case}_mask_out"], 0),
        ]
    return rows


def uvos_categories(arrays: dict) -> list[Row]:
    videos = json.loads(str(arrays["meta_json"]))["videos"]
    numbers = layouts.category_numbers(videos)
    rows = [
        compare("names", np.array(list(numbers)), arrays["category_names"], 0),
        compare("ids", list(numbers.values()), arrays["category_ids"], 0),
    ]
    for name, video in videos.items():
        table = {int(number): numbers[instance["category"]] for number, instance in video["objects"].items()}
        for how in frames.CATEGORIES:
            ours = frames.map_instances(arrays[f"{name}_mask"], table, how)
            rows.append(compare(f"{name} {how}", ours, arrays[f"{name}_{how}"], 0))
    return rows


def uvos_pca(arrays: dict) -> list[Row]:
    rows = []
    for case in sorted({key.split("/")[0] for key in arrays}):
        golden = {key.split("/")[1]: value for key, value in arrays.items() if key.startswith(f"{case}/")}
        standardized = clustering.standardize(golden["x"])
        reduced = clustering.reduce_tokens(golden["x"], int(golden["k"]))
        _, _, values = clustering.principal_components(standardized, int(golden["k"]))
        signs = np.sign((reduced * golden["pca"]).sum(axis=0))
        # Single precision leaves the small ones of the public code with an error that scales with the largest.
        largest = golden["eigenvalues"].max()
        rows += [
            compare(f"{case} standardised", standardized, golden["standardised"], 5e-6),
            compare(f"{case} pca, signs aligned", reduced * signs, golden["pca"], 1e-3),
            compare(f"{case} Gram matrix", reduced @ reduced.T, golden["pca"] @ golden["pca"].T, 1e-3),
            compare(f"{case} eigenvalues / largest", values / largest, golden["eigenvalues"] / largest, 1e-5),
        ]
    return rows


def uvos_upsample(arrays: dict) -> list[Row]:
    rows = []
    for case in sorted({key.split("_")[0] for key in arrays}):
        golden = arrays[f"{case}_y"]
        ours = clustering.upsample(arrays[f"{case}_x"], golden.shape[1:3])
        rows.append(compare(f"{case} upsampled", ours, golden, 2e-6))
    return rows


def uvos_kmeans(arrays: dict) -> list[Row]:
    rows = []
    for key, golden in arrays.items():
        case, name = key.split("/")
        if case == "perm":
            n, seed = map(int, name.split("_"))
            rows.append(compare(key, kmeans.permutation_prefix(n, seed, n), golden, 0))
            continue
        points = arrays[f"{case}/x"]
        if name.startswith("centroids_"):
            iterations = int(name.split("_")[1])
            centroids, objectives = kmeans.lloyd(points, arrays[f"{case}/init"], iterations)
            rows.append(compare(key, centroids, golden, 1e-4))
            labels = kmeans.assign(points, centroids)
            rows.append(compare(f"{case} labels_{iterations}", labels, arrays[f"{case}/labels_{iterations}"], 0))
            if f"{case}/obj_{iterations}" in arrays:
                theirs = arrays[f"{case}/obj_{iterations}"]  # goes on after an assignment repeats
                ours = (objectives + objectives[-1:] * len(theirs))[: len(theirs)]
                rows.append(compare(f"{case} objective_{iterations}", ours / theirs, np.ones(len(theirs)), 1e-5))
        elif name == "centroids":
            num_clusters = int(arrays[f"{case}/K"])
            centroids = kmeans.fit(points.__getitem__, len(points), num_clusters, kmeans.KmeansSettings())
            rows.append(compare(key, centroids, golden, 1e-4))
            rows.append(compare(f"{case} labels", kmeans.assign(points, centroids), arrays[f"{case}/labels"], 0))
        elif name == "subsample_index":
            rows.append(compare(key, kmeans.permutation_prefix(len(points), 1, len(golden)), golden, 0))
    return rows


def uvos_pipeline(arrays: dict) -> list[Row]:
    rows, side, size = [], int(arrays["S"]), (int(arrays["R"]),) * 2
    features = arrays["features"]
    reduced = clustering.reduce_tokens(features.reshape(-1, features.shape[-1]))
    reduced = reduced.reshape(*features.shape[:2], side, side, -1)
    for protocol, match in (("clustering", "hungarian"), ("overclustering", "precision")):
        maps, scores = [], []
        for clip, gt in zip(reduced, arrays["gt"], strict=True):
            num_clusters = len(np.unique(gt)) if protocol == "clustering" else 10
            maps.append(clustering.cluster_clip(clip, num_clusters, size))
            scores.append(matching.match_clip(gt, maps[-1], match).miou)
        differing = float(np.mean(np.stack(maps) != arrays[f"{protocol}_maps"]))
        rows += [
            Row(f"{protocol} share of pixels that differ", differing, 1e-3),
            compare(f"{protocol} per clip", scores, arrays[f"{protocol}_per_clip"], 1e-4),
            compare(f"{protocol} score", matching.average(scores), arrays[f"{protocol}_score"], 1e-4),
        ]
    return rows


def vos_propagation(arrays: dict) -> list[Row]:
    rows = []
    for case in sorted({key.split("/")[0] for key in arrays}):
        golden = {key.split("/")[1]: value for key, value in arrays.items() if key.startswith(f"{case}/")}
        if "n_last_frames" in golden:  # DINO: labels first, square, T = .1
            settings = propagation.PropagationSettings(
                int(golden["n_last_frames"]), int(golden["radius"]), topk=int(golden["topk"])
            )
            first, theirs, patch = np.moveaxis(golden["first_onehot"], 0, -1), golden["soft"], int(golden["patch"])
            theirs = np.moveaxis(theirs, 1, -1)
        else:
            settings = propagation.PropagationSettings(
                int(golden["max_context"]),
                int(golden["size"]),
                str(golden["shape"]),
                int(golden["topk"]),
                float(golden["temperature"]),
                upsampling="nearest",
                preset="dinov3",
            )
            first, theirs, patch = golden["first_onehot"], golden["soft"], 1
        soft = list(propagation.soft_labels(golden["features"], first, settings))
        size = golden["hard"].shape[1:]
        hard = np.stack([propagation.hard_labels(labels, patch, size, settings) for labels in soft])
        rows += [
            compare(f"{case} soft", np.stack(soft), theirs, 1e-5),
            Row(f"{case} share of pixels that differ", float(np.mean(hard != golden["hard"])), 5e-3),
        ]
    return rows
