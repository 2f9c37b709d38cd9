"""Released folder layouts, and every way in which they can be wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from sigma_jax.evals.segmentation import frames as input_frames
from sigma_jax.evals.segmentation.layouts import BadSequence, open_sequences
from tests.evals.segmentation.conftest import moving_square, write_frame, write_mask, write_sequence


def read(sequence, num_frames=4, size=(32, 32), **options):
    numbers = input_frames.draw_frames(sequence.name, len(sequence.frames), num_frames)
    return input_frames.read_clip(sequence, numbers, size, **options)


def kinds(notes):
    return [note.kind for note in notes]


def test_davis(davis):
    found = open_sequences(davis, "davis")
    assert [sequence.name for sequence in found.sequences] == ["cat", "dog"] and not found.left_out
    clip = read(found.sequences[0])
    assert clip.video.shape == (4, 32, 32, 3) and clip.labels.shape == (4, 32, 32)
    assert np.unique(clip.labels).tolist() == [0, 1] and clip.num_objects == 2 and not clip.notes


def test_davis_prefers_the_unsupervised_masks(davis):
    write_sequence(davis / "JPEGImages/480p/cat", davis / "Annotations_unsupervised/480p/cat")
    assert "unsupervised" in str(open_sequences(davis, "davis").annotations)
    assert "unsupervised" not in str(open_sequences(davis, "davis", unsupervised=False).annotations)


def test_youtube_vos_instances_become_classes(ytvos):
    found = open_sequences(ytvos, "ytvos")
    labels = [np.unique(read(sequence).labels).tolist() for sequence in found.sequences]
    assert labels == [[0, 2], [0, 1]]  # ape 1, zebra 2


def test_a_list_of_names(ytvos, tmp_path):
    (tmp_path / "names.txt").write_text("v2\nv9\n")
    found = open_sequences(ytvos, "ytvos", names=tmp_path / "names.txt")
    assert [sequence.name for sequence in found.sequences] == ["v2"]
    assert kinds(found.left_out) == ["no frames"] and "v9" in found.left_out[0].sentence


def test_folders_with_one_or_many_sequences(tmp_path):
    write_sequence(tmp_path / "one/frames", tmp_path / "one/masks")
    assert [sequence.name for sequence in open_sequences(tmp_path / "one", "folder").sequences] == ["one"]
    write_sequence(tmp_path / "many/frames/a", tmp_path / "many/masks/a")
    (tmp_path / "many/masks/a/00003.png").unlink()
    (sequence,) = open_sequences(tmp_path / "many", "folder").sequences
    assert len(sequence.frames) == 5 and kinds(sequence.notes) == ["frames without masks"]


@pytest.mark.parametrize(
    "layout,missing",
    [("davis", "ImageSets"), ("davis", "Annotations"), ("ytvos", "train/meta.json"), ("folder", "masks")],
)
def test_a_folder_of_another_layout_is_refused(layout, missing, davis, ytvos, tmp_path):
    root = {"davis": davis, "ytvos": ytvos, "folder": tmp_path / "mine"}[layout]
    if layout == "folder":
        (root / "frames").mkdir(parents=True)
    elif (root / missing).exists():
        (root / missing).rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=missing.split("/")[-1]):
        open_sequences(root, layout)


@pytest.mark.parametrize(
    "kind,breaking",
    [
        ("no masks", lambda masks, frames: [path.unlink() for path in masks.iterdir()]),
        ("frame without a mask", lambda masks, frames: (masks / "00002.png").unlink()),
        ("missing frame", lambda masks, frames: (frames / "00002.jpg").unlink()),
        ("missing frame", lambda masks, frames: [(frames / "00002.jpg").unlink(), (masks / "00002.png").unlink()]),
    ],
)
def test_broken_sequences_are_left_out_and_named(davis, kind, breaking):
    masks, frames = davis / "Annotations/480p/cat", davis / "JPEGImages/480p/cat"
    breaking(masks, frames)
    found = open_sequences(davis, "davis")
    assert [sequence.name for sequence in found.sequences] == ["dog"]
    assert kinds(found.left_out) == [kind]
    assert "cat" in found.left_out[0].sentence and ("00002" in found.left_out[0].sentence or kind == "no masks")


def colour_mask(path):
    Image.fromarray(np.full((40, 60, 3), 128, np.uint8)).save(path)


def black_and_white_mask(path):
    Image.fromarray(moving_square(0) * 255).save(path)


@pytest.mark.parametrize(
    "kind,write",
    [
        ("colour mask", colour_mask),
        ("black and white mask", black_and_white_mask),
        ("mask of another size", lambda path: write_mask(path, np.zeros((20, 60)))),
        ("unreadable file", lambda path: path.write_bytes(b"no image")),
    ],
)
def test_masks_that_cannot_be_used_are_named(davis, kind, write):
    path = davis / "Annotations/480p/cat/00003.png"
    write(path)
    (cat, _) = open_sequences(davis, "davis").sequences
    with pytest.raises(BadSequence, match="00003.png") as error:
        read(cat, num_frames=6)
    assert error.value.kind == kind


def test_a_truncated_frame_is_named(davis):
    path = davis / "JPEGImages/480p/cat/00001.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadSequence, match="00001.jpg"):
        read(open_sequences(davis, "davis").sequences[0], num_frames=6)


def test_meta_json_without_an_object_or_a_video(ytvos):
    path = ytvos / "train/meta.json"
    meta = json.loads(path.read_text())
    del meta["videos"]["v2"]
    meta["videos"]["v1"]["objects"]["7"] = meta["videos"]["v1"]["objects"].pop("1")
    path.write_text(json.dumps(meta))
    found = open_sequences(ytvos, "ytvos")
    assert kinds(found.left_out) == ["not in meta.json"] and "'v2'" in found.left_out[0].sentence
    with pytest.raises(BadSequence, match=r"object 1, which meta.json does not list"):
        read(found.sequences[0])
    meta["videos"] = {"v1": {"objects": {"one": {"category": "ape"}}}}
    path.write_text(json.dumps(meta))
    assert "object 'one' of video 'v1' is no number" in open_sequences(ytvos, "ytvos").left_out[0].sentence
    path.write_text("{}")
    with pytest.raises(ValueError, match="meta.json is no YouTube-VOS description"):
        open_sequences(ytvos, "ytvos")


def test_an_object_that_vanishes_and_a_clip_of_background_are_noted(davis):
    for i in range(6):
        mask = np.zeros((40, 60), np.uint8)
        mask[0, 0] = 2  # no pixel of the 8 x 8 mask comes from there
        write_mask(davis / f"Annotations/480p/cat/{i:05d}.png", mask)
    clip = read(open_sequences(davis, "davis").sequences[0], size=(8, 8))
    assert kinds(clip.notes) == ["object vanished", "background only"]
    assert "object 2" in clip.notes[0].sentence and "Annotations/480p/cat" in clip.notes[0].sentence


def test_fewer_frames_than_asked_are_noted(davis):
    clip = read(open_sequences(davis, "davis").sequences[0], num_frames=9)
    assert len(clip.video) == 9 and kinds(clip.notes) == ["fewer frames than asked"]


@pytest.mark.parametrize("void,value", [("class", 255), ("background", 0), ("ignore", -1)])
def test_void_pixels_are_noted_and_treated_as_asked(davis, void, value):
    mask = moving_square(0)
    mask[30:] = 255
    for i in range(6):
        write_mask(davis / f"Annotations/480p/cat/{i:05d}.png", mask)
    clip = read(open_sequences(davis, "davis").sequences[0], void=void)
    assert (clip.labels[:, -2:] == value).all() and kinds(clip.notes) == ["void"]
    assert clip.num_objects == (3 if void == "class" else 2)


def test_draws_do_not_depend_on_other_sequences():
    first = input_frames.draw_frames("cat", 50, 16, seed=1)
    assert (first == input_frames.draw_frames("cat", 50, 16, seed=1)).all()
    assert len(set(first.tolist())) == 16 and (np.diff(first) > 0).all()
    others = [("dog", 1), ("cat", 2)]
    assert all((first != input_frames.draw_frames(name, 50, 16, seed=seed)).any() for name, seed in others)
    assert input_frames.draw_frames("cat", 31, 4, "linspace").tolist() == [0, 10, 20, 30]


def test_frames_keep_their_colours(tmp_path):
    write_frame(tmp_path / "a.png", 7)
    assert input_frames.read_frame(tmp_path / "a.png")[2, 3].tolist() == [13, 6, 7]
