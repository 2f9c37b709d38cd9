"""Facts that no array tells: compared in one place, kept by every format, classes matched by name."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import sigma_jax
from sigma_jax.weights.facts import RECORDED, matched
from sigma_jax.weights.formats import describe, read_weights, write_weights
from sigma_jax.weights.frozen import load
from sigma_jax.weights.loading import fit
from sigma_jax.weights.pth import write_pth
from sigma_jax.weights.published import published_arrays
from sigma_jax.weights.weights_file import Weights, WeightsMismatch
from tests.weights.weights_samples import golden, sample

NAMES = ("éclair", "air drumming", "zumba", "abseiling", "yoga", "knitting", "diving", "rowing", "golf", "chess", "x")
PLACES = {"npz": "w.npz", "pth": "w.pth", "hf": "folder", "orbax": "run"}


def classifier(**facts) -> Weights:
    """The golden classifier of 11 classes."""
    weights = sample("finetune_cls")
    return dataclasses.replace(weights, sizes=weights.sizes | facts, assumed=())


def asked(**facts) -> dict:
    """The facts of the model that fits it."""
    return classifier().sizes | {"class_names": NAMES} | facts


@pytest.mark.parametrize("form", PLACES)
def test_what_no_array_tells_survives_every_format(tmp_path, form):
    facts = {"class_names": NAMES, "num_heads": 3, "num_frames": 8, "image_size": 64, "pooling": "first"}
    facts |= {} if form == "hf" else {"frame_stride": 2, "sampling": "uniform", "label_hash": "0123456789abcdef"}
    write_weights(tmp_path / PLACES[form], classifier(**facts), form)
    back = read_weights(tmp_path / PLACES[form])
    assert {name: back.sizes.get(name) for name in facts} == facts and not back.assumed
    assert set(facts) <= set(RECORDED) and "air drumming" in describe(back)


def test_what_nobody_says_is_marked_as_assumed(tmp_path):
    write_pth(tmp_path / "w.pth", golden("finetune_cls")[0])
    weights = read_weights(tmp_path / "w.pth", num_heads=3)
    assert set(weights.assumed) == {"num_frames", "image_size"} and "assumed: num_frames" in describe(weights)
    matched(weights, asked(num_frames=32), same=("num_frames",))  # nothing contradicts
    write_weights(tmp_path / "w.npz", weights, "npz")
    assert read_weights(tmp_path / "w.npz").assumed == weights.assumed


WRONG = {
    "positions": ("sincos_3d", r"positions is sincos_1d in the weights, sincos_3d here \(--config\.model\.positions="),
    "tube_size": (
        (4, 4, 8),
        r"tube_size is 2,8,8 in the weights, 4,4,8 here \(--config\.model\.tube_size=2,8,8 agrees",
    ),
    "pooling": ("attentive", r"pooling is mean in the weights, attentive here \(--config\.model\.pooling=mean agrees"),
    "num_heads": (6, r"num_heads is 3 in the weights, 6 here$"),
    "num_frames": (8, r"num_frames is 16 in the weights, 8 here \(--config\.model\.num_frames=16 agrees"),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_fact_that_changes_the_outcome_is_refused(name):
    value, message = WRONG[name]
    with pytest.raises(WeightsMismatch, match=message):
        matched(classifier(class_names=NAMES), asked(**{name: value}), same=("num_frames",))


def test_what_training_may_change_is_noted():
    notes = matched(classifier(class_names=NAMES), asked(num_frames=8, image_size=96)).notes
    assert [note.split(" in ")[0] for note in notes] == ["num_frames is 16", "image_size is 224"]
    assert matched(classifier(pooling="first", class_names=NAMES), asked(), fresh=("head",)).notes == ()


def test_a_size_that_does_not_fit_names_the_one_that_does():
    with pytest.raises(WeightsMismatch, match=r"width 48, depth 2, this config's .*384.*: none of our sizes"):
        matched(classifier(), asked(width=384))
    with pytest.raises(
        WeightsMismatch, match=r"width 384, depth 12, this config's of width 48, depth 2: choose size=S"
    ):
        matched(classifier(width=384, depth=12), asked())


def logits(weights: Weights, video: np.ndarray) -> np.ndarray:
    from sigma_jax.weights.frozen import abstract_params, module_of
    from sigma_jax.weights.weights_file import unflatten

    module = module_of(weights)
    params = unflatten(fit(weights, abstract_params(module, weights))[0])
    return np.asarray(jax.jit(module.apply)({"params": params}, video))


def test_classes_in_another_order_are_moved_by_name():
    theirs = tuple(reversed(NAMES[:10])) + NAMES[10:]
    spelled = tuple(name.upper().replace(" ", "_") for name in theirs)  # and é as two characters
    weights = classifier(class_names=tuple(name.replace("É", "E\u0301") for name in spelled), image_size=32)
    moved = matched(weights, asked())
    assert moved.sizes["class_order"] == "moved" and moved.sizes["class_names"] == NAMES
    assert "another order" in moved.notes[-1] and moved.digest() == weights.digest()
    video = np.random.default_rng(0).random((2, 16, 32, 32, 3), dtype=np.float32)
    before, after = logits(weights, video), logits(moved, video)
    for i, name in enumerate(theirs):
        np.testing.assert_array_equal(after[:, NAMES.index(name)], before[:, i])


def test_other_classes_stop_with_both_lists():
    other = (*NAMES[:9], "surfing", "tennis")
    with pytest.raises(WeightsMismatch) as caught:
        matched(classifier(class_names=other), asked())
    text = str(caught.value)
    assert "its 11: éclair, air drumming, zumba, abseiling, ... 7 more" in text
    assert "only in the data: chess, x; only in the head: surfing, tennis" in text
    fresh = matched(classifier(class_names=other), asked(), fresh=("head", "norm"))
    assert "head" not in fresh.params and fresh.sizes["class_order"] == "fresh"
    with pytest.raises(WeightsMismatch, match="its 11: .*\n.*the data's 3"):
        matched(classifier(class_names=other), asked(class_names=("a", "b", "c")))


def test_a_head_without_names_says_that_the_order_is_assumed():
    for weights, model in (
        (classifier(), asked()),
        (classifier(class_names=NAMES), asked(class_names=())),
    ):
        found = matched(weights, model)
        assert found.sizes["class_order"] == "assumed" and "row i of the head is taken for class i" in found.notes[-1]
    assert matched(classifier(class_names=NAMES), asked()).sizes["class_order"] == "same"


def test_heads_of_numbers_are_matched_with_data_of_numbers():
    turned = classifier(class_names=tuple(str(10 - i) for i in range(11)))
    assert matched(turned, asked(class_names=(), num_classes=11)).sizes["class_order"] == "moved"
    from_one = classifier(class_names=tuple(str(i + 1) for i in range(11)))
    with pytest.raises(WeightsMismatch, match="only in the data: 0; only in the head: 11"):
        matched(from_one, asked(class_names=(), num_classes=11))


def test_a_head_of_classes_is_none_for_a_task_without_classes():
    counting = asked()
    del counting["class_names"]
    with pytest.raises(WeightsMismatch, match=r"tells classes apart \(éclair.*predicts something else: advice"):
        matched(classifier(class_names=NAMES), counting, advice="advice")
    assert matched(classifier(class_names=NAMES), counting, fresh=("head",)) is not None
    assert matched(classifier(), counting).params["head"] is not None


def test_label_maps_of_runs_that_kept_no_names_are_compared_by_hash():
    hashed = classifier(label_hash="a" * 16)
    assert matched(hashed, asked(label_hash="a" * 16)).sizes["class_order"] == "same"
    with pytest.raises(WeightsMismatch, match="label map aaaaaaaaaaaaaaaa, the data have bbbb"):
        matched(hashed, asked(label_hash="b" * 16))


def test_a_head_on_the_first_token_is_the_authors_norm_of_it(tmp_path):
    """Without mean pooling the authors (and Hugging Face) norm every token and take the first."""
    arrays = {name.replace("fc_norm", "norm"): array for name, array in golden("finetune_cls")[0].items()}
    write_pth(tmp_path / "w.pth", arrays)
    model = load(tmp_path / "w.pth", num_heads=3)
    assert model.weights.sizes["pooling"] == "first" and published_arrays(model.weights).keys() == arrays.keys()
    video = np.random.default_rng(0).random((2, 4, 16, 16, 3), dtype=np.float32)
    first = np.asarray(model.features(video, pool=False))[:, 0]
    normed = (first - first.mean(1, keepdims=True)) / np.sqrt(first.var(1, keepdims=True) + 1e-6)
    expected = normed * arrays["norm.weight"] + arrays["norm.bias"]
    np.testing.assert_allclose(model.features(video), expected, atol=2e-5)


def test_class_names_of_hugging_face_that_nobody_gave_are_none(tmp_path):
    write_weights(tmp_path, classifier(), "hf")
    assert json.loads((tmp_path / "config.json").read_text())["id2label"]["10"] == "LABEL_10"
    assert "class_names" not in read_weights(tmp_path).sizes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_hidden_layers": 3}, "says num_hidden_layers=3, and its arrays are those of num_hidden_layers=2"),
        ({"tubelet_size": 1}, "says tubelet_size=1, and its arrays are those of tubelet_size=2"),
        ({"use_mean_pooling": False}, "says use_mean_pooling=False, and its arrays are those of use_mean_pooling=True"),
        ({"id2label": None}, "same"),  # label2id says it too
        ({"id2label": list(NAMES), "label2id": None}, "same"),
        ({"id2label": {str(10 - i): name for i, name in enumerate(NAMES)}, "label2id": {}}, "moved"),
        ({"id2label": {str(i + 1): name for i, name in enumerate(NAMES)}}, "names the outputs 1, 2, 3, 4, .* correct"),
        ({"label2id": {name: 10 - i for i, name in enumerate(NAMES)}}, "output 10 is 'x' by id2label, 'éclair' by"),
        (
            {"id2label": dict(enumerate(NAMES[:-1])), "label2id": {}},
            "names 10 classes .*, and its head has 11 outp",
        ),
        ({"id2label": dict(enumerate((*NAMES, "y"))), "label2id": {}}, "names 12 classes .*, and its head has 11 outp"),
    ],
)
def test_what_hugging_faces_config_says_belongs_to_the_arrays(tmp_path, change, expected):
    write_weights(tmp_path, classifier(class_names=NAMES), "hf")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    if expected in ("same", "moved"):
        assert matched(read_weights(tmp_path), asked()).sizes["class_order"] == expected
    else:
        with pytest.raises(WeightsMismatch, match=f"{tmp_path.name}.*{expected}"):
            read_weights(tmp_path)


def test_messages_name_only_flags_that_the_running_command_has():
    """Reading weights is shared by commands: what it says must hold for each of them."""
    package = Path(sigma_jax.__file__).parent
    said = set()
    for path in (package / "weights").glob("*.py"):
        texts = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        said |= {flag for text in texts if isinstance(text, str) for flag in re.findall(r"--[a-z_]+", text)}
    of_main = {
        "--init",
        "--mode",
        "--config",
        "--allow_missing",
    }  # only main compares facts and names what may be absent
    of_convert = {"--to"}  # only convert writes
    assert said <= of_main | of_convert | {"--weights"}
    for path in (*(package / "tools").glob("*.py"), package / "main.py"):
        if "read_weights(" in path.read_text() or re.search(r"\bload\(\s*args\.init|FLAGS\.init", path.read_text()):
            assert re.search(r'"weights"|add_weights_flags\(', path.read_text()), f"{path} has no --weights"
