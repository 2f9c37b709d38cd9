"""Windows of videos in eight ways: labels are balanced, follow the motion, and need more than content."""

import numpy as np
import pytest

from sigma_jax.data.source import open_source
from sigma_jax.datasets.synthetic import MOTIONS
from sigma_jax.evals import pretext
from sigma_jax.runtime.errors import InvalidValue

SPEC = pretext.PretextSpec(num_frames=4, frame_stride=1, image_size=32)


@pytest.fixture(scope="module")
def clips(shapes_dir):
    return pretext.pretext_clips(shapes_dir, "val", SPEC)


def test_every_window_is_shown_in_eight_ways_and_labels_are_balanced(clips, shapes_dir):
    assert clips.video.shape == (8 * 80, 4, 32, 32, 3) and clips.num_videos == 80
    for labelling, num_classes in (*pretext.LABELLINGS.values(), *pretext.DIRECTED.values()):
        labels = labelling(clips.label).reshape(80, 8)
        assert num_classes == 2 and (labels.sum(axis=1) == 4).all()
    window = clips.video[:8]
    assert np.array_equal(window[4], window[0][::-1]) and np.array_equal(window[1], window[0][:, :, ::-1])


def test_direction_is_that_of_the_motion(clips, shapes_dir):
    source = open_source(shapes_dir, "val")
    names = [source.classes[source[i].label].split("-")[0] for i in range(len(source))]
    assert {"left", "right"} <= set(MOTIONS)
    for i, name in enumerate(names):
        as_filmed = clips.label[8 * i] & pretext.RIGHT > 0
        if name in ("left", "right") and clips.has_direction[8 * i]:
            assert as_filmed == (name == "right"), (i, name)
    known = {name: np.mean(clips.has_direction[::8][np.array(names) == name]) for name in ("left", "right", "spin")}
    assert min(known["left"], known["right"]) > 0.8 > known["spin"]


def test_content_stays_at_chance_and_motion_does_not(clips):
    def content(params, video):
        return video.astype(np.float32).mean(axis=(1, 4)).reshape(len(video), -1)[:, ::7] @ np.ones((147, 3))

    scores = {}
    for name, features in (("content", content), ("motion", pretext.flow_features)):
        scores[name] = dict(pretext.PretextScores(features, clips, clips, k=5).run({}))
    assert scores["motion"]["linear/direction"] > 90 and scores["motion"]["linear/speed change"] > 60
    assert scores["content"]["linear/direction"] < 65
    assert len(scores["motion"]) == 2 * 2 * 3


def test_what_the_clips_of_a_window_share_is_taken_away(clips):
    windows = np.arange(640) // 8
    features = np.stack([100.0 * windows, clips.label & pretext.FAST], axis=1)
    left = pretext.without_mean(features)
    assert np.allclose(left[:, 0], 0) and set(np.unique(left[:, 1])) == {-1.0, 1.0}


def test_batches_are_filled_up_with_clips_of_no_weight(clips):
    batches = list(clips.batches(100))
    assert len(batches) == 7 and all(len(batch["video"]) == 100 for batch in batches)
    assert sum(batch["weight"].sum() for batch in batches) == len(clips.label)


def test_videos_that_are_too_short_are_named(shapes_dir):
    with pytest.raises(InvalidValue, match="0 videos have the 16 frames.*80 are shorter.*at least 4"):
        pretext.pretext_clips(shapes_dir, "val", pretext.PretextSpec(8, 1, 32))
