"""The table of data sets."""

import pytest

from sigma_jax.data import records
from sigma_jax.datasets import classes, specs, synthetic


def test_published_numbers():
    k400, ssv2 = specs.SPECS["k400"], specs.SPECS["ssv2"]
    assert (k400.num_classes, k400.num_train, k400.num_val, k400.frame_stride) == (400, 240436, 19796, 4)
    assert (ssv2.num_classes, ssv2.num_train, ssv2.num_val, ssv2.frame_stride) == (174, 168913, 24777, 2)
    assert specs.SPECS["synthetic"].num_classes == len(synthetic.MOTIONS) * len(synthetic.SHAPES)


def test_label_maps_are_those_of_their_data_sets():
    for name, hashed in specs.LABEL_HASHES.items():
        names = classes.shipped_names(name)
        if name in specs.NOT_SHIPPED:
            assert names == [] and specs.SPECS[name].num_classes
            continue
        assert len(names) == len(set(map(classes.spelling, names))) == specs.SPECS[name].num_classes
        assert classes.label_hash(names) == hashed and names == [name.strip() for name in names]
    assert classes.shipped_names("k400")[:2] == ["abseiling", "air drumming"]
    ucf101 = classes.shipped_names("ucf101")  # not in alphabetical order
    assert ucf101[34:36] == ["Hammering", "HammerThrow"] and ucf101 != sorted(ucf101)
    assert classes.shipped_names("imagenet1k") == classes.shipped_names("mine") == []


def test_another_label_map_is_an_error_that_names_the_first_difference():
    names = classes.shipped_names("hmdb51")
    classes.check_names("hmdb51", [name.replace("_", " ").title() for name in names], "ours")
    classes.check_names("mine", ["a"], "ours")
    swapped = [*names[:3], names[4], names[3], *names[5:]]
    hashes = f"{classes.label_hash(swapped)}, expected 51 with {specs.LABEL_HASHES['hmdb51']}"
    with pytest.raises(records.DataSetError, match=f"label_map.txt of .* hmdb51: .*{hashes}; class 3 is 'clap'"):
        classes.check_known("hmdb51", classes.Classes(51, tuple(swapped), ""))
    with pytest.raises(records.DataSetError, match="50 classes.*class 50 is None, expected 'wave'"):
        classes.check_names("hmdb51", names[:50], "ours")


def test_a_label_map_that_is_not_shipped_is_known_by_its_hash(monkeypatch):
    names = [f"action {i}" for i in range(157)]
    with pytest.raises(records.DataSetError, match=r"2 classes with hash \w{16}, expected 157 with 65ff41554443bff4"):
        classes.check_names("charades", names[:2], "mine.txt")
    with pytest.raises(records.DataSetError, match=r"label_map.txt of .*157 classes.*released with charades"):
        classes.check_known("charades", classes.Classes(157, tuple(names), ""))
    monkeypatch.setitem(specs.LABEL_HASHES, "charades", classes.label_hash(names))
    classes.check_known("charades", classes.Classes(157, tuple(names), ""))
    with pytest.raises(records.DataSetError, match="is not the label map"):
        classes.check_names("charades", [names[1], names[0], *names[2:]], "mine.txt")
