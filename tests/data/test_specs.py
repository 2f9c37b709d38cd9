"""The table of data sets."""

import pytest

from sigma_jax.data import specs, synthetic


def test_published_numbers():
    k400, ssv2 = specs.get_spec("k400"), specs.get_spec("ssv2")
    assert (k400.num_classes, k400.num_train, k400.num_val, k400.frame_stride) == (400, 240436, 19796, 4)
    assert (ssv2.num_classes, ssv2.num_train, ssv2.num_val, ssv2.frame_stride) == (174, 168913, 24777, 2)
    assert specs.get_spec("synthetic").num_classes == len(synthetic.MOTIONS) * len(synthetic.SHAPES)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="'k40' is unknown.*'hmdb51'.*'k400'"):
        specs.get_spec("k40")
