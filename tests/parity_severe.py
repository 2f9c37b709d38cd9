"""Parity of SEVERE: subsets, action recognition, repetition counting, multi-label classification."""

import tempfile
from pathlib import Path

import jax
import numpy as np

from sigma_jax.data.annotations import decode
from sigma_jax.data.class_names import spelling
from sigma_jax.data.cycles import phase_offsets
from sigma_jax.data.finetune_augment import ViewCrop
from sigma_jax.data.sampling import FrameSampling
from sigma_jax.datasets.annotation_lists import read_frame_list
from sigma_jax.datasets.classes import shipped_names
from sigma_jax.datasets.subsets import SUBSETS, choose, draw_samples
from sigma_jax.evals.classification_scores import mean_per_class
from sigma_jax.evals.knn import accuracy
from sigma_jax.evals.multi_view import softmax
from sigma_jax.evals.severe.counting import count_cycles
from sigma_jax.evals.severe.counting_scores import count_scores
from sigma_jax.evals.severe.multi_label_scores import mean_average_precision
from sigma_jax.models.repetition import Heads
from sigma_jax.objective.repetition import repetition_loss, window_targets
from sigma_jax.ops.repetition_windows import anchor_targets, move, window_frames
from sigma_jax.train.schedule import steps_with_warmup
from tests.parity import Row, compare

LISTS = {"ucf1": "ucf101/trainlist01.txt", "gym": "gym99/gym99_val_head300.txt"}  # below data/annotations


def annotation_lists(golden: Path) -> Path:
    """Where released lists lie beside a folder of goldens; goldens that need them are skipped where they do not."""
    return golden.resolve().parents[2] / "data" / "annotations"


def _list_labels(golden: Path, name: str) -> np.ndarray | None:
    path = annotation_lists(golden) / LISTS[name]
    if not path.is_file():
        return None
    lines = [line.split() for line in path.read_text().splitlines()]
    if name == "gym":
        return np.array([int(line[1]) for line in lines])
    classes = [spelling(name) for name in shipped_names("ucf101")]
    return np.array([classes.index(spelling(line[0].split("/")[0])) for line in lines])


def severe_subsets(arrays: dict, path: Path) -> list[Row]:
    out = []
    for case in sorted({key.split("/")[0] for key in arrays}):
        if case.startswith("synthetic"):
            labels = arrays[f"{case}/all_labels"]
        else:
            labels = _list_labels(path, "ucf1" if case.startswith("ucf1") else "gym")
        if labels is None:
            continue
        samples = case.rsplit("_", 1)[-1]
        if case.startswith(("fx_s1", "ub_s1")):
            rows, found = choose(SUBSETS[case[:5]], labels, "val")
        else:
            rows = draw_samples(labels, int(samples) if samples.isdigit() else 10**6)
            found = labels[rows]
        out.append(compare(f"{case} rows", rows, arrays[f"{case}/rows"], 0))
        out.append(compare(f"{case} labels", found, arrays[f"{case}/labels"], 0))
    return out


def severe_action(arrays: dict, path: Path) -> list[Row]:
    logits, labels = arrays["logits"], arrays["labels"]
    videos, views, classes = logits.shape
    scores = softmax(logits.reshape(-1, classes)).reshape(videos, views, classes).mean(axis=1)
    right = scores.argmax(axis=1) == labels
    sampling = FrameSampling("tiled", arrays["dense_frames"].shape[2], 1)
    num_views = arrays["dense_frames"].shape[1]
    frames = [[sampling.view(int(n), view, num_views) for view in range(num_views)] for n in arrays["dense_len"]]
    top5 = np.array([label in row for label, row in zip(labels, np.argsort(-scores, axis=1)[:, :5], strict=True)])
    return [
        compare("video top-1", accuracy(scores, labels), arrays["video_top1"], 1e-3),
        compare("video top-5", accuracy(scores, labels, top=5), arrays["video_top5"], 1e-3),
        compare("mean of classes top-1", mean_per_class(right, labels, classes), arrays["mean_class_top1"], 1e-3),
        compare("mean of classes top-5", mean_per_class(top5, labels, classes), arrays["mean_class_top5"], 1e-3),
        compare("evenly spaced frames", np.array(frames), arrays["dense_frames"], 0),
    ]


def rc_windows(arrays: dict, path: Path) -> list[Row]:
    theirs, length = arrays["window_frames"], arrays["window_len"][:, None]
    ours = window_frames(arrays["window_state"], theirs.shape[1])
    ours, theirs = (np.where((frames >= 0) & (frames < length), frames, -1) for frames in (ours, theirs))
    classes, boxes = anchor_targets(arrays["target_offset"], arrays["target_half_len"])
    out = [
        compare("window frames", ours, theirs, 0),
        compare("target classes", classes, arrays["target_cls"], 0),
        compare("target boxes", np.where(classes == 1, boxes, -1), arrays["target_box"], 1e-6),
    ]
    state, factors = arrays["step_state"], arrays["step_factor"]
    for name, longest in (("train", None), ("val", arrays["step_len"] / 2)):
        moved, failed = move(state, factors, arrays["step_shift"], longest)
        done = np.stack([moved[:, 1] >= arrays["step_len"], failed], axis=1)
        out.append(compare(f"moved windows, {name}", moved, arrays[f"step_{name}_state"], 0))
        out.append(compare(f"done and failed, {name}", done, arrays[f"step_{name}_done_failed"], 0))
    return out


def rc_annotations(arrays: dict, path: Path) -> list[Row]:
    out = []
    for video in arrays["_videos"]:
        ours = phase_offsets(arrays[f"{video}/bounds"] - 1)
        out += [
            compare(f"{video} {name}", mine, arrays[f"{video}/{name}"], 0)
            for name, mine in zip(("next", "prev"), ours, strict=True)
        ]
        out.append(compare(f"{video} count", len(arrays[f"{video}/bounds"]), arrays[f"{video}/meta"][3], 0))
    return out


def rc_loss(arrays: dict, path: Path) -> list[Row]:
    left, right = jax.jit(window_targets)(arrays["state"], arrays["next_offsets"], arrays["prev_offsets"])
    heads = [arrays[f"{kind}_{side}"] for side in ("left", "right") for kind in ("cls", "box")]
    loss, parts = jax.jit(repetition_loss)(Heads(*heads), left, right)
    ours = {"loss": loss, "loss_cls": parts["loss_class"], "loss_box": parts["loss_box"]}
    return [
        compare("target classes left", left[0], arrays["target_cls_left"], 0),
        compare("target classes right", right[0], arrays["target_cls_right"], 0),
        *(compare(name, value, arrays[name], 1e-5 * abs(float(arrays[name]))) for name, value in ours.items()),
    ]


def rc_inference(arrays: dict, path: Path) -> list[Row]:
    fill = np.array([0.485, 0.456, 0.406], np.float32)
    counts, out = [], []
    for number, length in enumerate(arrays["lens"]):

        def network(frames, clip=arrays[f"clip{number}"], length=int(length)):
            inside = (frames >= 0) & (frames < length)
            pixels = clip[:, np.clip(frames, 0, length - 1)].transpose(1, 0, 2)
            pixels = np.where(inside[:, None], pixels, fill[:, None]).reshape(len(frames), -1)
            hidden = np.tanh(pixels @ arrays["net_W1"].T + arrays["net_b1"])
            heads = [hidden @ arrays[f"net_W{name}"].T + arrays[f"net_b{name}"] for name in ("c1", "b1", "c2", "b2")]
            return Heads(heads[0].reshape(-1, 2, 7), heads[1], heads[2].reshape(-1, 2, 7), heads[3])

        found = count_cycles(network, int(length), arrays["net_W1"].shape[1] // 3)
        counts.append(found.count)
        for name, mine in (("left_edge", found.left_edges), ("right_edge", found.right_edges)):
            out.append(compare(f"clip {number} {name}", mine, arrays[name][number], 0))
        out.append(compare(f"clip {number} period", found.initial_period, arrays["initial_period"][number], 0))
    scores = count_scores(np.array(counts), arrays["gt_counts"])
    names = {"relative_error": "MAE", "relative_error_std": "MAE_std", "maep": "MAEP", "maen": "MAEN", "oboa": "OBOA"}
    out.append(compare("counts", counts, arrays["pred_counts"], 0))
    return out + [compare(theirs, scores[ours], arrays[theirs], 1e-9) for ours, theirs in names.items()]


def charades_map(arrays: dict, path: Path) -> list[Row]:
    out = []
    for case in sorted({key.split("/")[0] for key in arrays}):
        scores = arrays[f"{case}/scores"]
        if scores.ndim == 3:
            scores = scores.max(axis=1)
            out.append(compare(f"{case} maximum over views", scores, arrays[f"{case}/video_scores"], 0))
        value, precisions = mean_average_precision(scores, arrays[f"{case}/labels"])
        out.append(compare(f"{case} mAP", value / 100, arrays[f"{case}/map"], 1e-6))
        if f"{case}/ap" in arrays:
            out.append(compare(f"{case} classes", list(precisions), arrays[f"{case}/kept_classes"], 0))
            out.append(
                compare(f"{case} precisions", np.array(list(precisions.values())) / 100, arrays[f"{case}/ap"], 1e-6)
            )
    return out


def charades_data(arrays: dict, path: Path) -> list[Row]:
    sampling = FrameSampling("window", int(arrays["num_frames"]), int(arrays["sampling_rate"]))
    views, crops = int(arrays["views"]), int(arrays["crops"])
    frames = [[sampling.view(int(n), v // crops, views) for v in range(views * crops)] for n in arrays["lens"]]
    out = [compare("test frames", np.array(frames), arrays["test_frames"], 0)]
    found, num_classes = frame_list_labels(str(arrays["frame_list"])), arrays["test_targets"].shape[1]
    union = np.stack([labels.of_video(num_classes) for labels in found])
    out.append(compare("labels of videos", union, arrays["test_targets"], 0))
    clips = zip(arrays["train_video"], arrays["train_frames"], strict=True)
    ours = [found[video].between(int(frames[0]), int(frames[-1]), num_classes) for video, frames in clips]
    out.append(compare("labels of training clips", np.stack(ours), arrays["train_targets"], 0))
    pixels = (arrays["spatial_frames_bgr"][..., ::-1] / 255 - 0.45) / 0.225
    crop = ViewCrop(crops, rounds_up=True)
    cut = [crop(pixels.astype(np.float32), int(arrays["spatial_crop"]), number) for number in range(crops)]
    theirs = arrays["spatial_test"].transpose(0, 2, 3, 4, 1)
    return [*out, compare("test crops", np.stack(cut), theirs, 5e-5)]


def frame_list_labels(text: str) -> list:
    """Labels of each video of a frame list, in order, through the reader of such lists."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [line.split() for line in text.splitlines()[1:]]
        for video in dict.fromkeys(Path(line[3]).parent for line in lines):
            (folder / video).mkdir(parents=True)
        (folder / "list.csv").write_text(text)
        found = read_frame_list(folder / "list.csv", folder, [], 157)
        assert not found.refused, found.refused
        return [decode(entry.annotation) for entry in found.entries]


def charades_lr(arrays: dict, path: Path) -> list[Row]:
    per_epoch = 100
    rate = steps_with_warmup(0.0375, (41 * per_epoch, 49 * per_epoch), 0.1, 4 * per_epoch, 1e-4)
    ours = [float(rate(step)) for step in np.rint(arrays["epoch"] * per_epoch).astype(int)]
    return [compare("learning rate", ours, arrays["lr"], 1e-9)]


KINDS = {
    "charades_lr": charades_lr,
    "severe_subsets": severe_subsets,
    "severe_action": severe_action,
    "rc_windows": rc_windows,
    "rc_annotations": rc_annotations,
    "rc_inference": rc_inference,
    "rc_loss": rc_loss,
    "charades_map": charades_map,
    "charades_data": charades_data,
}
