"""The labelled moving shapes: reproducible, fit for their files, and not solvable from colours."""

import numpy as np

from sigma_jax.data import decode
from sigma_jax.datasets import synthetic
from sigma_jax.tools import synthetic as command


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


def test_camouflage_hides_the_shape_from_its_colours_but_not_from_its_stripes():
    plain, masks, motion, shape = synthetic.render_masked_clips(0, 0, 150)
    video, same_masks, *labels = synthetic.render_masked_clips(0, 0, 150, camouflage=True)
    np.testing.assert_array_equal(same_masks, masks)
    assert (labels[0] == motion).all() and (labels[1] == shape).all()
    on, off = (masks == 1)[..., None], (masks == 0)[..., None]
    for clips, told in ((plain, True), (video, False)):
        levels = [np.stack([clip[np.broadcast_to(m, clip.shape)].mean() for clip, m in zip(clips, where, strict=True)])
                  for where in (on, off)]  # fmt: skip
        difference = levels[0] - levels[1]
        assert (difference > 40).all() if told else abs(difference.mean()) < 2 and np.abs(difference).max() < 20
    shades = [
        np.bincount(video[np.broadcast_to(where, video.shape)], minlength=256).reshape(16, 16).sum(1)
        for where in (on, off)
    ]
    shares = [counts / counts.sum() for counts in shades]
    assert np.abs(shares[0] - shares[1]).sum() < 0.05  # equally often dark and bright
    dy, dx = np.gradient(video[:, 0].mean(-1), axis=(1, 2))
    inner = masks[:, 0] * np.minimum(np.roll(masks[:, 0], 1, 1), np.roll(masks[:, 0], 1, 2)) > 0
    angles = [np.angle((((dx + 1j * dy) ** 2) * where).sum((1, 2))) for where in (inner, masks[:, 0] == 0)]
    apart = np.abs(np.angle(np.exp(1j * (angles[0] - angles[1])))) / 2
    assert np.median(np.degrees(apart[motion != synthetic.MOTIONS.index("spin")])) > 60  # of 90


def test_camouflaged_clips_are_reproducible_whatever_is_beside_them():
    video = synthetic.render_clips(3, 60, 10, camouflage=True)[0]
    np.testing.assert_array_equal(synthetic.render_clips(3, 66, 3, camouflage=True)[0], video[6:9])


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


def test_a_folder_holds_clips_of_one_kind(tmp_path, capsys):
    few = [f"--out={tmp_path}", "--train=0", "--bank=0", "--val=0", "--masked=2"]
    assert command.main([*few, "--camouflage"]) == 0 and command.main([*few, "--camouflage"]) == 0
    assert command.main(few) == 1 and "holds camouflaged clips" in capsys.readouterr().err
    ordinary = [f"--out={tmp_path / 'ordinary'}", *few[1:]]
    assert command.main(ordinary) == 0
    assert command.main([*ordinary, "--camouflage"]) == 1 and "holds ordinary clips" in capsys.readouterr().err
    frames = [(path / "segmentation/frames").rglob("*.png") for path in (tmp_path, tmp_path / "ordinary")]
    assert [a.read_bytes() == b.read_bytes() for a, b in zip(*map(sorted, frames), strict=True)] == [False] * 16
