"""A grid of attentive probes: equal to each head alone, chosen on val, with every option."""

import dataclasses

import numpy as np
import pytest

from sigma_jax.evals import attentive_grid as grid
from sigma_jax.runtime.errors import InvalidValue

SETTINGS = grid.GridSettings((2e-2, 1e-4), (0.01, 0.8), epochs=20, batch_size=16, depth=2, num_heads=2)


def tokens(n, seed, views=1, width=8, num_tokens=6):
    """One of the tokens says the class, another one a second class; where they are is random."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((n, views, num_tokens, width)).astype(np.float32)
    labels, second = rng.integers(3, size=n), rng.integers(3, size=n)
    for view in range(views):
        place = rng.integers(num_tokens - 1, size=n)
        found[np.arange(n), view, place] = 4 * np.eye(width)[labels]
        found[np.arange(n), view, place + 1] = 4 * np.eye(width)[3 + second]
    many = np.zeros((n, 6), np.uint8)
    many[np.arange(n), labels], many[np.arange(n), 3 + second] = 1, 1
    return grid.TokenSet(found, labels), grid.TokenSet(found, many)


@pytest.fixture(scope="module")
def sets():
    return [tokens(96, 0), tokens(48, 1), tokens(48, 2)]


@pytest.fixture(scope="module")
def result(sets):
    return grid.attentive_grid(*(pair[0] for pair in sets[:2]), 3, SETTINGS, sets[2][0])


def test_a_head_in_the_grid_is_the_head_alone(sets, result):
    alone = dataclasses.replace(SETTINGS, learning_rates=(1e-4,), weight_decays=(0.8,))
    single = grid.attentive_grid(sets[0][0], sets[1][0], 3, alone)
    (there,) = [row for row in result["grid"] if (row["learning_rate"], row["weight_decay"]) == (1e-4, 0.8)]
    assert single["grid"][0]["loss"] == pytest.approx(there["loss"], rel=1e-4)
    assert single["grid"][0]["val"] == there["val"]


def test_the_best_on_val_is_chosen_and_shown_the_test_clips(result):
    best = max(row["val"] for row in result["grid"])
    assert result["chosen"]["val"] == best > 80 and result["chosen"]["test"] > 70
    assert len(result["grid"]) == 4 and all("test" not in row for row in result["grid"])
    assert len({round(row["loss"], 5) for row in result["grid"]}) == 4


def test_fewer_heads_side_by_side_change_nothing(sets):
    model, losses = grid.AttentiveClassifier(3, 2, 2), []
    for heads_at_once in (0, 3):
        settings = dataclasses.replace(SETTINGS, epochs=1, heads_at_once=heads_at_once)
        losses.append(grid.fit_heads(model, sets[0][0], settings)[1])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_heads_without_blocks_share_the_tokens_and_make_no_keys_or_values():
    clips, num_tokens, width, heads = 8, 512, 16, 8
    settings = grid.GridSettings(tuple(1e-3 * (i + 1) for i in range(heads)), (0.01,), depth=1, num_heads=2)
    update, state = grid.step_of((num_tokens, width), 3, settings)
    numbers = np.ones(heads, np.float32)
    batch = np.zeros((clips, num_tokens, width), np.float16), np.zeros(clips, np.int32)
    temporary = update.lower(*state, numbers, numbers, *batch).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 4 * heads * clips * num_tokens * width  # what the values alone of all heads would take


def test_training_is_forecast_from_the_sizes():
    settings = grid.GridSettings((1e-3, 1e-4), (0.01,), epochs=2, depth=2, num_heads=4)
    total, blocks = grid.training_flops(settings, 10, (5, 8))
    assert blocks == 3 * 10 * 2 * 2 * (24 * 5 * 64 + 4 * 25 * 8)
    assert total - blocks == 3 * 10 * 2 * 2 * (4 * 5 * 8 * 4 + 20 * 64)
    assert grid.training_flops(dataclasses.replace(settings, depth=1), 10, (5, 8)) == (total - blocks, 0)
    one_head = total / (10 * 2 * 2)  # of one clip
    assert grid.step_ratio(settings, (5, 8)) == 2
    assert grid.step_ratio(settings, (5, 8), one_head) == pytest.approx((1 + 2) / (1 + 1))


def test_several_labels_per_clip(sets):
    settings = dataclasses.replace(SETTINGS, multi_label=True)
    found = grid.attentive_grid(*(pair[1] for pair in sets[:2]), 6, settings, sets[2][1])
    assert found["metric"] == "mAP" and found["chosen"]["test"] > 60


def test_several_views_are_averaged():
    train, val = tokens(96, 3, views=2)[0], tokens(48, 4, views=3)[0]
    settings = dataclasses.replace(SETTINGS, learning_rates=(2e-2,), weight_decays=(0.01,))
    model = grid.AttentiveClassifier(3, 2, 2)
    params, _ = grid.fit_heads(model, train, settings)
    (together,) = grid.predict(model, params, val, settings)
    single = [grid.predict(model, params, grid.TokenSet(val.tokens[:, [v]], val.labels), settings)[0] for v in range(3)]
    np.testing.assert_allclose(together, np.mean(single, axis=0), atol=1e-6)
    shown = list(grid.batches(train, dataclasses.replace(settings, epochs=1)))
    assert all(batch.tokens.ndim == 3 for batch in shown)


def test_few_shots_mean_and_spread(sets):
    settings = dataclasses.replace(SETTINGS, epochs=4)
    found = grid.few_shot((sets[0][0], sets[1][0], sets[2][0]), 3, settings, 4, (0, 1))
    measured = [run["chosen"]["test"] for run in found["runs"]]
    assert found["mean"] == pytest.approx(np.mean(measured)) and found["spread"] == pytest.approx(np.std(measured))
    rows = grid.few_shot_rows(sets[0][0].labels, 4, 0)
    assert np.bincount(sets[0][0].labels[rows]).tolist() == [4, 4, 4]
    assert rows.tolist() != grid.few_shot_rows(sets[0][0].labels, 4, 1).tolist()
    with pytest.raises(InvalidValue, match="few_shot=99: class"):
        grid.few_shot_rows(sets[0][0].labels, 99, 0)


def test_diverged_heads_are_named_and_not_chosen(sets):
    settings = dataclasses.replace(SETTINGS, learning_rates=(2e-2, 1e30), weight_decays=(0.01,), epochs=2)
    found = grid.attentive_grid(sets[0][0], sets[1][0], 3, settings)
    assert [row["diverged"] for row in found["grid"]] == [False, True] and found["chosen"]["learning_rate"] == 2e-2
    with pytest.raises(InvalidValue, match="every head diverged"):
        grid.attentive_grid(sets[0][0], sets[1][0], 3, dataclasses.replace(settings, learning_rates=(1e30,)))


def test_what_does_not_fit_together(sets):
    train, val = sets[0][0], sets[1][0]
    for wrong, said in (
        (grid.TokenSet(val.tokens[:, :, :3], val.labels), "with the N and D of train"),
        (grid.TokenSet(val.tokens, val.labels[:5]), "val labels are"),
        (grid.TokenSet(val.tokens, val.labels + 1), "span 1..3"),
    ):
        with pytest.raises(InvalidValue, match=said):
            grid.attentive_grid(train, wrong, 3, SETTINGS)
    with pytest.raises(InvalidValue, match="does not divide"):
        grid.attentive_grid(train, val, 3, dataclasses.replace(SETTINGS, num_heads=3))
    with pytest.raises(InvalidValue, match="learning_rates"):
        grid.GridSettings(learning_rates=())
