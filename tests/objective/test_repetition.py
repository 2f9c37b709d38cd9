"""Windows of repetition counting on the device: pixels, loss, moves, and the ring of clips."""

import jax
import numpy as np
import pytest

from sigma_jax.models.repetition import NUM_OUTPUTS, OUTSIDE, split_heads, window_pixels
from sigma_jax.objective import repetition
from sigma_jax.ops.repetition_windows import IGNORED, best_factor, move, window_frames
from sigma_jax.ops.tubes import PIXEL_MEAN, PIXEL_STD


def test_device_and_host_agree_on_windows():
    rng = np.random.default_rng(0)
    left = rng.integers(-20, 200, 50)
    middle = left + rng.integers(4, 90, 50)
    state = np.stack([left, middle, middle + rng.integers(4, 90, 50)], axis=1)
    for frames in (16, 32):
        np.testing.assert_array_equal(
            jax.jit(window_frames, static_argnums=1)(state, frames), window_frames(state, frames)
        )
    factors, shift = rng.uniform(0.3, 2.2, (50, 2)), rng.integers(0, 30, 50)
    for longest in (None, np.full(50, 40.0)):
        ours, host = (function(state, factors, shift, longest) for function in (jax.jit(move), move))
        np.testing.assert_array_equal(ours[0], host[0])
        np.testing.assert_array_equal(ours[1], host[1])


def test_frames_outside_the_clip_are_the_mean_colour_after_normalising():
    video = np.full((5, 2, 2, 3), 255, np.uint8)
    pixels = np.asarray(jax.jit(window_pixels)(video, np.array([[-1, 0, 2, 3, 4]]), 3))
    normalised = (pixels[0, :, 0, 0] - PIXEL_MEAN) / np.asarray(PIXEL_STD)
    np.testing.assert_allclose(normalised[[0, 3, 4]], np.broadcast_to(PIXEL_MEAN, (3, 3)), atol=1e-6)
    assert (pixels[0, 1:3] == 1.0).all() and OUTSIDE[0] > PIXEL_MEAN[0]


def test_unknown_offsets_teach_nothing():
    heads = split_heads(np.ones((2, NUM_OUTPUTS), np.float32))
    state, unknown = np.array([[2, 9, 17], [0, 19, 30]]), np.full((2, 20), IGNORED)
    left, right = jax.jit(repetition.window_targets)(state, unknown, unknown)  # the second one ends with the last frame
    assert (np.asarray(left[0]) == IGNORED).all() and (np.asarray(right[0]) == IGNORED).all()
    assert float(jax.jit(repetition.repetition_loss)(heads, left, right)[0]) == 0.0


def test_windows_move_on_until_they_are_over():
    outputs = np.zeros((3, 2, 3, 7), np.float32)
    outputs[:, :, 1, 3] = 5.0  # the anchor of the half's own length
    heads = split_heads(outputs.reshape(3, -1))
    assert jax.jit(best_factor)(heads.left_logits, heads.left_boxes, 2.0).tolist() == [1.0] * 3
    state, length = np.array([[10, 19, 29], [10, 19, 29], [10, 12, 29]]), np.array([100, 20, 100])
    moved, is_over = jax.device_get(jax.jit(repetition.next_windows)(state, heads, length, jax.random.key(0)))
    assert is_over.tolist() == [False, True, True]  # beyond the end; a half of three frames
    shift = int(moved[0, 1]) - 19
    assert 5 <= shift <= 20 and moved[0].tolist() == [10 + shift, 19 + shift, 29 + shift]


def test_the_ring_takes_new_clips_in_turn_and_draws_again():
    ring = jax.jit(lambda: repetition.empty_ring(lifetime=2, clips=1, num_frames=4, size=2, num_windows=3))()
    clips = {
        "video": np.ones((1, 4, 2, 2, 3), np.uint8), "offsets": np.ones((1, 2, 4), np.int32),
        "windows": np.arange(9).reshape(1, 3, 3), "length": np.array([4]),
    }  # fmt: skip
    advance = jax.jit(repetition.advance)
    ring = jax.device_get(jax.jit(repetition.replace_group)(ring, clips, 3))
    assert ring["length"].tolist() == [[0], [4]] and ring["state"][1, 0].tolist() == [0, 1, 2]
    moved, over = np.full((2, 1, 3), 7), np.array([[False], [True]])
    ring = jax.device_get(advance(ring, moved, over))
    assert ring["state"].tolist() == [[[7, 7, 7]], [[3, 4, 5]]]
    for expected in ([6, 7, 8], [0, 1, 2]):
        ring = jax.device_get(advance(ring, moved, over))
        assert ring["state"][1, 0].tolist() == expected


def test_loss_counts_ignored_anchors_only_in_the_boxes_mean():
    heads = split_heads(np.zeros((1, NUM_OUTPUTS), np.float32))
    classes, boxes = np.array([[1, 0, IGNORED, 0, 0, 0, 0]]), np.float32([[2, 0, 0, 0, 0, 0, 0]])
    nothing = np.full((1, 7), IGNORED), np.zeros((1, 7), np.float32)
    loss, parts = jax.jit(repetition.repetition_loss)(heads, (classes, boxes), nothing)
    assert float(parts["loss_class"]) == pytest.approx(np.log(2))
    assert float(parts["loss_box"]) == pytest.approx(50 * 1.5 / 7)
    assert float(loss) == pytest.approx(float(parts["loss_class"] + parts["loss_box"]))
