"""The labelled moving shapes: reproducible, fit for their files, and not solvable from colours."""

import numpy as np

from sigma_jax.data import decode
from sigma_jax.datasets import synthetic


def test_clip_is_the_same_whatever_is_rendered_beside_it():
    video, motion, shape = synthetic.render_clips(3, 0, 80)
    again, motion_again, shape_again = synthetic.render_clips(3, 66, 5)
    np.testing.assert_array_equal(again, video[66:71])
    np.testing.assert_array_equal(motion_again, motion[66:71])
    np.testing.assert_array_equal(shape_again, shape[66:71])
    assert (synthetic.render_clips(4, 66, 5)[0] != again).any()


def test_shapes_move_as_their_label_says():
    video, motion, _ = synthetic.render_clips(0, 0, 400)
    bright = np.clip(video.max(-1).astype(np.float32) - 115, 0, None)  # the background stays below .38 * 255
    mass = bright.sum((2, 3))
    x = (bright.sum(2) * np.arange(32)).sum(-1) / mass
    y = (bright.sum(3) * np.arange(32)).sum(-1) / mass
    change = {"left": x[:, 0] - x[:, -1], "right": x[:, -1] - x[:, 0], "up": y[:, 0] - y[:, -1]}
    change["down"] = -change["up"]
    for name, moved in change.items():
        assert moved[motion == synthetic.MOTIONS.index(name)].min() > 3, name
    dx, dy = np.diff(x, axis=1), np.diff(y, axis=1)
    turn = (dx[:, :-1] * dy[:, 1:] - dx[:, 1:] * dy[:, :-1]).sum(1)  # y points down: positive is clockwise
    assert turn[motion == synthetic.MOTIONS.index("clockwise")].min() > 1
    assert turn[motion == synthetic.MOTIONS.index("counterclockwise")].max() < -1
    growth = np.abs(np.log(mass[:, -1] / mass[:, 0]))
    assert np.median(growth[motion == synthetic.MOTIONS.index("zoom")]) > 0.8
    assert np.median(growth[motion == synthetic.MOTIONS.index("spin")]) < 0.2


def test_colours_do_not_give_the_shape_away():
    video, _, shape = synthetic.render_clips(0, 0, 1500)
    features = np.concatenate([video.mean((1, 2, 3)), video.std((1, 2, 3))], 1)
    features = (features - features.mean(0)) / features.std(0)
    train, test = slice(0, 1000), slice(1000, 1500)
    distance = ((features[test, None] - features[None, train]) ** 2).sum(-1)
    votes = np.eye(5)[shape[train]][np.argsort(distance, 1)[:, :20]].sum(1)
    assert (votes.argmax(1) == shape[test]).mean() < 0.33  # chance is 0.2


def test_files_keep_the_pixels(tmp_path):
    count = synthetic.write_videos(tmp_path, seed=1, start=40, count=6)
    files = sorted(tmp_path.rglob("*.mp4"), key=lambda path: path.name)
    video, motion, shape = synthetic.render_clips(1, 40, 6)
    assert count == len(files) == 6
    for path, clip, m, s in zip(files, video, motion, shape, strict=True):
        assert path.parent.name == synthetic.class_name(m, s)
        info = decode.probe(path.read_bytes())
        assert (info.num_frames, info.height, info.width, info.warning) == (8, 32, 32, "")
        decoded = decode.decode_frames(path.read_bytes(), np.arange(8))
        assert np.abs(decoded.astype(int) - clip).mean() < 1.0
