"""Semi-supervised DAVIS on a whole set, which can be interrupted: masks by label propagation, J and F."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sigma_jax.evals.segmentation import benchmark, frames, propagation, region_boundary
from sigma_jax.evals.segmentation.layouts import BadSequence, DataSet, Note
from sigma_jax.evals.segmentation.layouts import Sequence as AnnotatedSequence
from sigma_jax.evals.segmentation.result_folder import ResultFolder, check_any, remarks


def run_propagation(
    data: DataSet,
    model: benchmark.DenseModel | None,
    folder: ResultFolder,
    settings: propagation.PropagationSettings,
    *,
    predictions: Path | None = None,
    each: Callable[[str, np.ndarray | None], None] = lambda name, masks: None,
) -> None:
    """Propagates the first mask of every unfinished clip; stores the masks with their J and F.

    Args:
      data: the set.
      model: the frozen model; None if `predictions` are given.
      folder: of the results.
      settings: of the propagation.
      predictions: folder with <clip>/<frame>.png, masks that are scored instead.
      each: called after every clip with its name, and its masks if they have just been made.
    """
    for sequence in data.sequences:
        if folder.clip(sequence.name) is not None:
            each(sequence.name, None)
            continue
        try:
            truth = np.stack(_read_masks(sequence.masks))
            if predictions is None:
                _check_first(sequence, truth)
                masks = np.stack(list(propagated_masks(sequence, truth[0], model, settings)))
                _write_masks(folder.out / "predictions" / sequence.name, sequence, masks)
            else:
                masks = np.stack(_read_masks([predictions / sequence.name / path.name for path in sequence.masks]))
            scores = _scored(sequence, truth, masks)
        except BadSequence as error:
            folder.leave_out(sequence.name, error)
            each(sequence.name, None)
            continue
        arrays = {str(n): {"J": list(s.region), "F": list(s.boundary)} for n, s in scores.items()}
        unusual = [*sequence.notes, *_void_notes(sequence, truth), *_object_notes(sequence, truth)]
        if predictions is None:
            unusual += _vanished(sequence, truth[0], token_grid(truth[0].shape, model, settings))
        notes = [[note.kind, note.sentence] for note in unusual]
        folder.finish(sequence.name, {"objects": arrays, "notes": notes})
        each(sequence.name, masks)


def propagated_masks(
    sequence: AnnotatedSequence,
    first_mask: np.ndarray,
    model: benchmark.DenseModel,
    settings: propagation.PropagationSettings,
) -> Iterator[np.ndarray]:
    """Yields object numbers uint8 [y x] of every frame, the given first one included.

    The input of a video model is one frame, repeated to the length of a tube, with resized positions.
    """
    size, patch = first_mask.shape, model.token_size
    seen = propagation.frame_size(*size, patch, settings)

    def features(path: Path) -> np.ndarray:
        frame = frames.read_frame(path)
        if frame.shape[:2] != size:
            raise BadSequence("mask of another size", f"{path} is {frame.shape[:2]}, the masks {size}")
        image = propagation.resize_frame(frame, seen, settings)
        clip = np.repeat(image[None, None], model.frames_per_step, axis=1)
        return np.asarray(model.dense_features(clip, final_norm=True, resize_positions=True), np.float32)[0, 0]

    start = np.where(first_mask == frames.VOID, 0, first_mask)
    yield start
    numbers = np.union1d(start, 0).astype(np.uint8)  # a label per number that is there, whatever the largest one is
    labels = np.searchsorted(numbers, start)
    first = propagation.first_labels(labels, token_grid(size, model, settings))
    for soft in propagation.soft_labels(map(features, sequence.frames), first, settings):
        yield numbers[propagation.hard_labels(soft, patch, size, settings)]


def token_grid(
    size: tuple[int, int], model: benchmark.DenseModel, settings: propagation.PropagationSettings
) -> tuple[int, int]:
    """(rows, columns) of the tokens of a frame of `size`."""
    rows, columns = propagation.frame_size(*size, model.token_size, settings)
    return rows // model.token_size, columns // model.token_size


def propagation_result(data: DataSet, folder: ResultFolder) -> dict[str, Any]:
    """The content of result.json: J and F per object and over all objects, in [0, 1], and the clips that are left out.

    Raises:
      InvalidValue: no clip could be measured; the message says why the first one could not.
    """
    scores, left_out, notes = {}, list(data.left_out), []
    for sequence in data.sequences:
        known = folder.clip(sequence.name)
        if "left_out" in known:
            left_out.append(Note(sequence.name, known["left_out"], known["reason"]))
            continue
        notes += [Note(sequence.name, kind, sentence) for kind, sentence in known["notes"]]
        scores[sequence.name] = {
            int(number): region_boundary.ObjectScores(np.array(arrays["J"]), np.array(arrays["F"]))
            for number, arrays in known["objects"].items()
        }
    check_any(scores, left_out)
    found = region_boundary.summary(scores)
    return (
        {"scores": found["global"], "num_clips": len(scores)}
        | remarks(left_out, notes)
        | {"objects": found["per_object"]}
    )


def _read_masks(paths: Sequence[Path]) -> list[np.ndarray]:
    """Reads masks of one size.

    Raises:
      BadSequence: a mask does not exist, cannot be used, or has another size.
    """
    masks = []
    for path in paths:
        if not path.is_file():
            raise BadSequence("missing prediction", f"{path} is not there")
        masks.append(frames.read_mask(path))
        if masks[-1].shape != masks[0].shape:
            raise BadSequence("mask of another size", f"{path} is {masks[-1].shape}, {paths[0].name} {masks[0].shape}")
    return masks


def _check_first(sequence: AnnotatedSequence, truth: np.ndarray) -> None:
    """Raises BadSequence, before anything is computed, if the sequence cannot be scored."""
    if len(truth) < 3:
        raise BadSequence("too few frames", f"{sequence.frames[0].parent} has {len(truth)} frames; J and F need 3")
    if not ((truth[0] > 0) & (truth[0] < frames.VOID)).any():
        raise BadSequence("no object in the first frame", f"{sequence.masks[0]} shows no object to follow")
    first = frames.read_frame(sequence.frames[0])
    if first.shape[:2] != truth[0].shape:
        raise BadSequence(
            "mask of another size", f"{sequence.masks[0]} is {truth[0].shape}, its frame {first.shape[:2]}"
        )


def _scored(sequence: AnnotatedSequence, truth: np.ndarray, masks: np.ndarray) -> dict:
    try:
        return region_boundary.score_sequence(truth, masks)
    except ValueError as error:
        raise BadSequence("cannot be scored", f"{sequence.masks[0].parent}: {error}") from error


def _void_notes(sequence: AnnotatedSequence, truth: np.ndarray) -> list[Note]:
    is_void = (truth == frames.VOID).any(axis=(1, 2))
    if not is_void.any():
        return []
    path = sequence.masks[int(is_void.argmax())]
    sentence = f"{path} and {is_void.sum() - 1} other masks have void pixels (255), counted as background"
    return [Note(sequence.name, "void", sentence)]


def _object_notes(sequence: AnnotatedSequence, truth: np.ndarray) -> list[Note]:
    """Notes on objects that are not in the first frame, and on numbers that no frame shows."""
    first, anywhere = (set(np.unique(part).tolist()) - {0, frames.VOID} for part in (truth[0], truth))
    notes, path = [], sequence.masks[0]
    late = sorted(anywhere - first)
    if late:
        shown = ", ".join(map(str, late))
        sentence = f"{path} does not show objects {shown} of later frames, which cannot be followed"
        notes.append(Note(sequence.name, "object not in the first frame", sentence))
    if len(anywhere) < max(first, default=0):
        shown = ", ".join(map(str, sorted(anywhere)))
        sentence = f"{path} and the other masks show objects {shown}; the numbers between them are not counted"
        notes.append(Note(sequence.name, "object numbers with gaps", sentence))
    return notes


def _vanished(sequence: AnnotatedSequence, first: np.ndarray, grid: tuple[int, int]) -> list[Note]:
    """A note for every object of the first mask that covers no token, so that nothing can be propagated."""
    lost = sorted(set(np.unique(first).tolist()) - set(np.unique(frames.resize_mask(first, grid)).tolist()))
    sentence = "{name}: object {number} vanishes when {path} is resized to {grid} tokens"
    return [
        Note(
            sequence.name,
            "object vanished",
            sentence.format(name=sequence.name, number=number, path=sequence.masks[0], grid=f"{grid[0]} x {grid[1]}"),
        )
        for number in lost
        if number not in (0, frames.VOID)
    ]


def _write_masks(folder: Path, sequence: AnnotatedSequence, masks: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, mask in zip(sequence.masks, masks, strict=True):
        image = Image.fromarray(mask, mode="P")
        image.putpalette(_palette())
        image.save(folder / path.name)


def _palette() -> list[int]:
    """256 colours of which neighbours differ: the bits of a number are distributed over red, green and blue in turn."""
    colors = np.zeros((256, 3), np.int64)
    numbers = np.arange(256)
    for bit in range(8):
        channel, place = bit % 3, 7 - bit // 3
        colors[:, channel] |= ((numbers >> bit) & 1) << place
    return colors.ravel().tolist()
