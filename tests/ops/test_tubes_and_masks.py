"""Tube arithmetic and masks, with sizes that cannot cancel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.ops.masking import gather, indices_of, mask_of, sample_mask
from sigma_jax.ops.posembed import position_table, resize_positions
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD, TubeGrid, standardize_tubes, tubes_to_video, video_to_tubes

GRID = TubeGrid(6, (15, 35), (2, 5, 7), 0.5)  # t h w = 3 3 5


def test_published_counts():
    grid = TubeGrid()
    assert (grid.shape, grid.num_tubes, grid.num_visible, grid.num_masked) == ((8, 14, 14), 1568, 160, 1408)
    assert TubeGrid(mask_ratio=0.75).num_masked == 1176


def test_tubes_run_time_row_column_and_inside_frame_row_column_channel():
    video = np.arange(6 * 15 * 35 * 3).reshape(1, 6, 15, 35, 3)
    tubes = np.asarray(video_to_tubes(video, GRID.tube_size))
    t, h, w = 2, 1, 3
    expected = video[0, 4:6, 5:10, 21:28].reshape(-1)
    np.testing.assert_array_equal(tubes[0, t * 15 + h * 5 + w], expected)
    np.testing.assert_array_equal(tubes_to_video(tubes, GRID), video)


def test_pixels_are_standardised_alike_from_uint8_and_float():
    pixels = np.asarray([[0, 128, 255]], np.uint8)
    expected = (pixels / 255 - np.asarray(PIXEL_MEAN)) / np.asarray(PIXEL_STD)
    np.testing.assert_allclose(standardize_tubes(jnp.asarray(pixels)), expected, atol=1e-6)
    np.testing.assert_allclose(standardize_tubes(jnp.asarray(pixels / 255.0)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings,word",
    [
        ({"num_frames": 15}, "tube length"),
        ({"image_size": 200}, "image_size=200"),
        ({"mask_ratio": 0.0}, "mask_ratio"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"mask_ratio": 1.7}, "mask_ratio"),
        ({"mask_ratio": 0.001}, "hides 0 of 196"),
    ],
)
def test_impossible_grids_are_errors(settings, word):
    with pytest.raises(ValueError, match=word):
        TubeGrid(**settings)


@pytest.mark.parametrize("kind", ["tube", "random"])
def test_masks_split_the_tubes_in_two_ascending_lists(kind):
    visible, masked = sample_mask(jax.random.key(0), 4, GRID, kind)
    assert visible.shape == (4, GRID.num_visible) and masked.shape == (4, GRID.num_masked)
    assert np.all(np.diff(visible, axis=1) > 0) and np.all(np.diff(masked, axis=1) > 0)
    both = np.sort(np.concatenate([visible, masked], axis=1), axis=1)
    np.testing.assert_array_equal(both, np.broadcast_to(np.arange(GRID.num_tubes), both.shape))
    steps = np.asarray(mask_of(masked, GRID.num_tubes)).reshape(4, 3, -1)
    assert np.all(steps.sum(axis=2) == GRID.masked_per_step)
    assert np.all(steps == steps[:, :1]) == (kind == "tube")
    assert not np.all(steps == steps[:1])  # clips differ


def test_masks_are_a_function_of_the_key_and_uniform():
    draw = jax.jit(lambda key: sample_mask(key, 2000, GRID)[1])
    np.testing.assert_array_equal(draw(jax.random.key(7)), draw(jax.random.key(7)))
    share = np.asarray(jax.vmap(lambda m: jnp.bincount(m, length=GRID.num_tubes))(draw(jax.random.key(1)))).mean(axis=0)
    np.testing.assert_allclose(share, GRID.masked_per_step / GRID.tubes_per_step, atol=0.05)


def test_unknown_mask_kind_lists_the_known_ones():
    with pytest.raises(ValueError, match="tube"):
        sample_mask(jax.random.key(0), 1, GRID, "block")


def test_indices_of_a_literal_mask():
    mask = np.asarray([[1, 0, 0, 1, 1], [0, 1, 1, 0, 1]], bool)
    visible, masked = indices_of(mask)
    np.testing.assert_array_equal(visible, [[1, 2], [0, 3]])
    np.testing.assert_array_equal(masked, [[0, 3, 4], [1, 2, 4]])
    np.testing.assert_array_equal(mask_of(masked, 5), mask)
    np.testing.assert_array_equal(gather(jnp.arange(10.0).reshape(2, 5, 1), visible)[..., 0], [[1, 2], [5, 8]])
    with pytest.raises(ValueError, match="same number"):
        indices_of(np.asarray([[1, 0], [1, 1]], bool))


def test_a_position_does_not_depend_on_the_table_length_and_kinds_differ():
    long, short = (position_table("sincos_1d", (t, 3, 5), 14) for t in (4, 2))
    np.testing.assert_array_equal(long[:30], short)
    factored = position_table("sincos_3d", (4, 3, 5), 14)
    assert factored.shape == long.shape and not np.allclose(factored, long)
    time_part = factored.reshape(4, 15, 14)[:, :, :6]
    np.testing.assert_array_equal(time_part, np.broadcast_to(time_part[:, :1], time_part.shape))
    with pytest.raises(ValueError, match="sincos_1d"):
        position_table("learned", (4, 3, 5), 14)


def test_resized_positions_keep_a_constant_and_nothing_changes_at_the_same_size():
    table = jnp.full((48, 2), 3.5)
    assert resize_positions(table, (6, 8), (6, 8)) is table
    resized = resize_positions(table, (6, 8), (12, 16))
    assert resized.shape == (192, 2)
    np.testing.assert_allclose(resized, 3.5, rtol=1e-6)
