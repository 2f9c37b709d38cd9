"""Objects in videos from frozen features: clustering, overclustering (mIoU) and label propagation (J&F).

  python -m sigma_jax.tools.segment --init=WEIGHTS --data_dir=DAVIS --dataset=davis --protocol=clustering --out=c
  python -m sigma_jax.tools.segment --init=WEIGHTS --data_dir=YTVOS --dataset=ytvos --names=val.txt \\
      --protocol=clustering,overclustering --out=yt
  python -m sigma_jax.tools.segment --init=WEIGHTS --data_dir=DAVIS --dataset=davis --protocol=propagation --out=p
  python -m sigma_jax.tools.segment --predictions=MASKS --data_dir=DAVIS --dataset=davis --protocol=propagation --out=jf

WEIGHTS: anything tools.convert reads, image teachers (DINO) too. --dataset: davis (JPEGImages/480p, Annotations/480p,
ImageSets/2017), ytvos (train/JPEGImages, train/Annotations, train/meta.json) or folder (frames/NAME/, masks/NAME/).
Masks are PNGs of object numbers: 0 is background, 255 void. Nothing is trained. OUT gets result.json (scores, every
clip, what was left out and why, each decision that is ours, the hash of the weights), overlays/, and of propagation the
masks. Start it again after an interruption: finished clips are skipped.
Exit code 0: there is a result; 1: refused, or nothing could be measured; 2: wrong usage.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sigma_jax.evals.segmentation import frames as input_frames
from sigma_jax.evals.segmentation.benchmark import DenseModel, ScoredClip, TubePixels
from sigma_jax.evals.segmentation.clustering_run import ClusteringRun, clustering_result
from sigma_jax.evals.segmentation.kmeans import KmeansSettings
from sigma_jax.evals.segmentation.layouts import LAYOUTS, DataSet, open_sequences
from sigma_jax.evals.segmentation.propagation import PRESETS, PropagationSettings
from sigma_jax.evals.segmentation.propagation_run import propagation_result, run_propagation
from sigma_jax.evals.segmentation.result_folder import ResultFolder
from sigma_jax.evals.segmentation.settings import PROTOCOLS, ClusteringSettings
from sigma_jax.models.compute import Compute
from sigma_jax.report.overlays import cluster_numbers, object_numbers, write_overlay_animation, write_overlays
from sigma_jax.runtime.command import Command, WrongUsage, add_weights_flags, command_parser, leave, natural
from sigma_jax.runtime.errors import InvalidValue, NotThere
from sigma_jax.runtime.logs import start_logging
from sigma_jax.weights.formats import WHICH
from sigma_jax.weights.frozen import Pretrained, load, untrained

FRAMES_OF = {"davis": 16, "ytvos": 4, "folder": 16}  # caption of the paper's table; of a folder as DAVIS
MOST_ROWS = 40  # of the printed table
BASELINES = ("random", "pixels")  # random weights, or the raw pixels of the tubes
Settings = ClusteringSettings | PropagationSettings


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


CLUSTERING_FLAGS = {  # flag of ClusteringSettings: (type, help)
    "num_frames": (int, "frames of a clip (default 16, of ytvos 4)"),
    "image_size": (int, "side of the resized frames (default 224)"),
    "draw": (str, "frames: random (default, as published) or linspace"),
    "seeds": (_seeds, "of the random frames, the score is their mean (default 0,1,2)"),
    "time": (str, "token steps to frames: repeat (default), even or linear"),
    "statistics": (str, "standardisation and PCA per batch (default, as published) or clip"),
    "batch_size": (int, "clips of such a batch (default 16)"),
    "dims": (int, "of the PCA (default 50)"),
    "num_clusters": (int, "of overclustering (default 10)"),
    "greedy": (str, "matching of overclustering: precision (default, as published) or iou"),
    "upsampled": (str, "features (default, as published) before clustering, or labels after it"),
    "void": (str, "255 in a mask: class (default, as published), background or ignore"),
    "categories": (str, "instances to classes: lookup (default), or timet with the fault of the public code"),
    "average": (str, "over clips: plain (default) or timet (mean of batch means)"),
}
KMEANS_FLAGS = {
    "restarts": (int, "of k-means (default 5)"),
    "iterations": (int, "of k-means (default 50)"),
    "kmeans_seed": (int, "of k-means (default 1)"),
}
PROPAGATION_FLAGS = {
    "context": (int, "last frames that are asked, beside the first (dino 7)"),
    "radius": (int, "of the neighbourhood in tokens, 0: none (dino 12)"),
    "shape": (str, "of the neighbourhood: square (dino) or circle (dinov3)"),
    "topk": (int, "tokens that are asked (dino 5)"),
    "temperature": (float, "of the similarities (dino .1, dinov3 .2)"),
    "short_side": (int, "of the frames that the model sees (dino 480, dinov3 960)"),
    "upsampling": (str, "of the labels: bilinear (dino) or nearest (dinov3)"),
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("segment", __doc__)
    parser.add_argument("--init", help="weights in any format, or a run folder")
    parser.add_argument("--data_dir", required=True, type=Path, help="folder of the data set, as released")
    parser.add_argument("--dataset", required=True, choices=LAYOUTS, help="layout of --data_dir")
    parser.add_argument(
        "--protocol", required=True, help="clustering, overclustering, clustering,overclustering or propagation"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--split", help="davis: val (default) or train; ytvos: train (default)")
    parser.add_argument("--names", type=Path, help="file with one sequence a line: measure only those")
    add_weights_flags(parser, WHICH)
    parser.add_argument("--baseline", choices=BASELINES, help="measure this in place of --init, whose sizes it takes")
    parser.add_argument("--baseline_seed", type=natural, help="of the random weights (default 0)")
    parser.add_argument("--bfloat16", action="store_true", help="compute features in bfloat16")
    parser.add_argument("--overlays", type=natural, default=30, help="how many clips to draw (default 30)")
    parser.add_argument("--animations", action="store_true", help="also write GIFs of the drawn clips")
    parser.add_argument("--label", help="name of the row in the pictures (default: that of the weights)")
    parser.add_argument(
        "--beside", default="", help="--out folders of other methods, separated by commas: further rows in the pictures"
    )
    group = parser.add_argument_group("clustering and overclustering")
    group.add_argument("--before_norm", action="store_true", help="features before the encoder's final norm")
    group.add_argument("--timet_std", action="store_true", help="standardise red by .228, as TimeT does")
    for name, (kind, text) in {**CLUSTERING_FLAGS, **KMEANS_FLAGS}.items():
        group.add_argument(f"--{name}", type=kind, help=text)
    group = parser.add_argument_group("propagation")
    group.add_argument("--preset", choices=PRESETS, help="published settings (default dino); other flags change them")
    group.add_argument("--predictions", type=Path, help="score the masks of this folder instead, NAME/FRAME.png")
    for name, (kind, text) in PROPAGATION_FLAGS.items():
        group.add_argument(f"--{name}", type=kind, help=text)
    args = parser.parse_args(argv)
    args.protocols = tuple(dict.fromkeys(args.protocol.split(",")))
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    """Raises WrongUsage for flags that do not go together."""
    propagates = args.protocols == ("propagation",)
    if not propagates and not set(args.protocols) <= set(PROTOCOLS):
        raise WrongUsage(f"--protocol={args.protocol}: expected {', '.join(PROTOCOLS)} (one or both) or propagation")
    foreign = [*CLUSTERING_FLAGS, *KMEANS_FLAGS] if propagates else ["preset", "predictions", *PROPAGATION_FLAGS]
    given = [name for name in foreign if getattr(args, name) is not None]
    given += [name for name in ("before_norm", "timet_std") if propagates and getattr(args, name)]
    if given:
        raise WrongUsage(f"--{given[0]} has no meaning with --protocol={args.protocol}")
    if bool(args.init) == (args.predictions is not None):
        raise WrongUsage("expected --init=WEIGHTS, or --predictions=FOLDER with --protocol=propagation")
    if args.baseline and not args.init:
        raise WrongUsage("--baseline takes its sizes from --init=WEIGHTS")
    if args.baseline_seed is not None and args.baseline != "random":
        raise WrongUsage("--baseline_seed belongs to --baseline=random")


def segment(args: argparse.Namespace) -> int:
    """Measures what the flags ask for; returns the exit status."""
    start_logging()
    propagates = args.protocols == ("propagation",)
    data = open_sequences(args.data_dir, args.dataset, args.split, names=args.names, unsupervised=not propagates)
    if args.predictions is not None and not args.predictions.is_dir():
        raise NotThere(f"--predictions={args.predictions} is no folder")
    settings = propagation_settings(args) if propagates else clustering_settings(args)
    compute = Compute(dtype=jnp.bfloat16 if args.bfloat16 else jnp.float32)
    model = load(args.init, num_heads=args.num_heads, weights=args.weights, compute=compute) if args.init else None
    made_of = description(args, data, settings, model)
    folder = ResultFolder(args.out, made_of)
    run = propagate if propagates else cluster
    result = run(args, data, measured_model(args, model), folder, settings)
    where = {"weights_file": args.init, "data_dir": str(args.data_dir), "annotations": str(data.annotations)}
    versions = {name: metadata.version(name) for name in ("jax", "numpy", "scipy", "pillow", "opencv-python-headless")}
    decisions = {"decisions": decisions_of(model, settings)}
    path = folder.write("result.json", made_of | where | decisions | {"versions": versions} | result)
    print(propagation_table(result) if propagates else clustering_table(result))
    print_remarks(result)
    print(f"{path}: {result['num_clips']} clips, {len(result['left_out'])} left out")
    return 0


def measured_model(args: argparse.Namespace, model: Pretrained | None) -> DenseModel | None:
    """The weights, or what --baseline puts in their place."""
    if args.baseline == "random":
        return untrained(model, args.baseline_seed or 0)
    if args.baseline == "pixels":
        return TubePixels(model.token_size, model.frames_per_step)
    return model


def clustering_settings(args: argparse.Namespace) -> ClusteringSettings:
    """Settings of clustering: those of the flags, and the defaults for the rest."""
    given = {name: getattr(args, name) for name in CLUSTERING_FLAGS if getattr(args, name) is not None}
    renamed = {"restarts": "restarts", "iterations": "iterations", "kmeans_seed": "seed"}
    kmeans = {own: getattr(args, flag) for flag, own in renamed.items() if getattr(args, flag) is not None}
    return ClusteringSettings(
        **{"num_frames": FRAMES_OF[args.dataset]} | given,
        final_norm=not args.before_norm,
        timet_std=args.timet_std,
        kmeans=KmeansSettings(**kmeans),
    )


def propagation_settings(args: argparse.Namespace) -> PropagationSettings:
    """The preset, changed by the flags."""
    given = {name: getattr(args, name) for name in PROPAGATION_FLAGS if getattr(args, name) is not None}
    return dataclasses.replace(PRESETS[args.preset or "dino"], **given)


def description(
    args: argparse.Namespace,
    data: DataSet,
    settings: ClusteringSettings | PropagationSettings,
    model: Pretrained | None,
) -> dict[str, Any]:
    """Settings and weights that the scores depend on; the first entries of result.json."""
    own = None if model is None or args.baseline else model.identity
    return {
        "protocol": list(args.protocols),
        "dataset": args.dataset,
        "split": args.split or {"davis": "val", "ytvos": "train"}.get(args.dataset),
        "weights": own and own["weights"],
        "model": own and {name: own[name] for name in ("kind", "sizes")},
        "baseline": args.baseline and {"kind": args.baseline, "seed": args.baseline_seed or 0},
        "predictions": None if args.predictions is None else str(args.predictions),
        "dtype": "bfloat16" if args.bfloat16 else "float32",
        "settings": dataclasses.asdict(settings),
        "sequences": [sequence.name for sequence in data.sequences],
    }


def decisions_of(model: Pretrained | None, settings: Settings) -> dict[str, str]:
    """The decisions of the protocol that are this project's, in sentences."""
    if model is None:
        return {}
    if isinstance(settings, ClusteringSettings):
        decisions = dict(settings.decisions)
        if not model.has_final_norm:
            decisions["final_norm"] = "these weights have no norm over tokens: the last block's output"
        if model.weights.kind == "teacher":
            decisions["time"] = "an image model: one step per frame"
        return decisions
    if model.weights.kind == "teacher":
        return {"preset": f"{settings.preset}, as published for image models"}
    copies = model.frames_per_step
    return {
        "preset": f"{settings.preset}, published for image models",
        "frames": f"a frame is fed {copies} times: one step of tokens; positions are resized in space",
    }


def progress(total: int, unit: str) -> tqdm:
    """A progress bar; where the output is no terminal, a log line now and then."""
    return tqdm(total=total, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 30, dynamic_ncols=True)


def cluster(
    args: argparse.Namespace, data: DataSet, model: DenseModel, folder: ResultFolder, settings: ClusteringSettings
) -> dict[str, Any]:
    """Clusters the clips that are not finished, with pictures; returns the scores."""
    shown = {sequence.name for sequence in data.sequences[: args.overlays]}
    label = args.label or args.baseline or Path(args.init).stem

    def each(seed: int, scored: list[ScoredClip]) -> None:
        if seed == settings.seeds[0] and scored[0].clip.name in shown:
            for entry in scored:
                draw_clusters(args, folder.out, entry, label)

    run = ClusteringRun(data, model, folder, args.protocols, settings, each)
    with progress(run.num_steps, "step") as bar:
        dataclasses.replace(run, tick=bar.update).run()
    return clustering_result(data, folder, args.protocols, settings)


def draw_clusters(args: argparse.Namespace, out: Path, scored: ScoredClip, label: str) -> None:
    """A picture (and an animation) of a clip: other methods, this one, the truth; keeps the map for other pictures."""
    clip = scored.clip
    place = f"{scored.protocol}/{clip.name}"
    for folder in ("maps", "overlays"):
        (out / folder / scored.protocol).mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out / "maps" / f"{place}.npz", cluster_map=scored.cluster_map, frame_numbers=clip.frame_numbers, label=label
    )
    rows = {}
    for other in filter(None, args.beside.split(",")):
        name, cluster_map = kept_map(Path(other) / "maps" / f"{place}.npz", clip)
        rows[name] = cluster_numbers(cluster_map, clip.labels)
    rows[label] = cluster_numbers(scored.cluster_map, clip.labels)
    rows["ground truth"] = object_numbers(clip.labels)
    write_overlays(out / "overlays" / f"{place}.png", clip.video, rows)
    if args.animations:
        write_overlay_animation(out / "overlays" / f"{place}.gif", clip.video, rows)


def kept_map(path: Path, clip: input_frames.Clip) -> tuple[str, np.ndarray]:
    """(name of the row, cluster map) of a clip from the --out folder of another method.

    Raises:
      NotThere: the folder has no map of this clip.
      InvalidValue: its map is of other frames.
    """
    if not path.is_file():
        raise NotThere(f"--beside: {path} is not there; run that method with the same --protocol and --overlays first")
    with np.load(path) as arrays:
        if arrays["cluster_map"].shape != clip.labels.shape or (arrays["frame_numbers"] != clip.frame_numbers).any():
            raise InvalidValue(
                f"--beside: {path} shows other frames of {clip.name}; use the same frames, size and seeds"
            )
        return str(arrays["label"]), arrays["cluster_map"]


def propagate(
    args: argparse.Namespace,
    data: DataSet,
    model: DenseModel | None,
    folder: ResultFolder,
    settings: PropagationSettings,
) -> dict[str, Any]:
    """Propagates masks in the sequences that are not finished, with pictures; returns J and F."""
    by_name = {sequence.name: sequence for sequence in data.sequences}
    shown = {sequence.name for sequence in data.sequences[: args.overlays]}
    with progress(len(data.sequences), "clip") as bar:

        def each(name: str, masks: np.ndarray | None) -> None:
            bar.update()
            if masks is not None and name in shown:
                draw_masks(args, folder.out, by_name[name], masks)

        run_propagation(data, model, folder, settings, predictions=args.predictions, each=each)
    return propagation_result(data, folder)


def draw_masks(args: argparse.Namespace, out: Path, sequence: Any, masks: np.ndarray) -> None:
    """A picture (and an animation) of propagated masks above the true ones; background is not tinted."""
    numbers = np.arange(len(masks)) if args.animations else np.array([0, len(masks) // 2, len(masks) - 1])
    video = np.stack([input_frames.read_frame(sequence.frames[i]) for i in numbers])
    truth = np.stack([input_frames.read_mask(sequence.masks[i]) for i in numbers])
    label = args.label or args.baseline or Path(args.init or args.predictions).stem
    rows = {
        name: np.where((labels > 0) & (labels < input_frames.VOID), labels.astype(np.int16), np.int16(-1))
        for name, labels in ((label, masks[numbers]), ("ground truth", truth))
    }
    (out / "overlays").mkdir(exist_ok=True)
    write_overlays(out / "overlays" / f"{sequence.name}.png", video, rows)
    if args.animations:
        write_overlay_animation(out / "overlays" / f"{sequence.name}.gif", video, rows)


def clustering_table(result: Mapping[str, Any]) -> str:
    """A line per clip (mean over seeds) and one for all, per cent."""
    protocols = list(result["scores"])
    lines = [["clip", "objects", *(f"{protocol} mIoU" for protocol in protocols)]]
    for name, by_seed in list(result["clips"].items())[:MOST_ROWS]:
        scores = [[known["scores"][protocol] for known in by_seed.values()] for protocol in protocols]
        objects = max(len(entry["objects"]) for entry in scores[0])
        lines.append(
            [name, str(objects), *(f"{100 * np.mean([e['miou'] for e in entries]):.1f}" for entries in scores)]
        )
    hidden = len(result["clips"]) - MOST_ROWS
    lines += [[f"... and {hidden} more", *[""] * (len(protocols) + 1)]] if hidden > 0 else []
    seeds = len(result["scores"][protocols[0]]["per_seed"])
    scores = [result["scores"][protocol] for protocol in protocols]
    spread = [f"{score['score']:.1f}" + (f" +- {score['spread']:.1f}" if seeds > 1 else "") for score in scores]
    return aligned([*lines, [f"all ({result['num_clips']})", "", *spread]])


def propagation_table(result: Mapping[str, Any]) -> str:
    """A line per object and one for all, per cent."""
    names = ["J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]
    lines = [["object", "J&F-Mean", *names]]
    for name, numbers in list(result["objects"].items())[:MOST_ROWS]:
        both = (numbers["J-Mean"] + numbers["F-Mean"]) / 2
        lines.append([name, f"{100 * both:.1f}", *(f"{100 * numbers[key]:.1f}" for key in names)])
    hidden = len(result["objects"]) - MOST_ROWS
    lines += [[f"... and {hidden} more", *[""] * (len(names) + 1)]] if hidden > 0 else []
    whole = result["scores"]
    return aligned([*lines, ["all", f"{100 * whole['J&F-Mean']:.1f}", *(f"{100 * whole[key]:.1f}" for key in names)]])


def aligned(lines: list[list[str]]) -> str:
    """Rows as text in columns, the first aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def print_remarks(result: Mapping[str, Any]) -> None:
    """Prints which clips were left out and why, and notes about the others."""
    for entry in result["left_out"]:
        print(f"left out: {entry['clip']}: {entry['reason']}")
    for kind, count in result["counts"].items():
        if not kind.startswith("left out"):
            print(f"note: {kind}: {count} (sentences in result.json)")


main = Command("segment", parse_arguments, segment, after_stop="The same command goes on where it stopped")

if __name__ == "__main__":
    leave(main())
