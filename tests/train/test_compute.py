"""How a config's compute section is resolved for a platform."""

import pytest

from sigma_jax.runtime.config import apply_overrides, load_config
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.train import setup


def compute(platform, **values):
    overrides = {f"compute.{name}": value for name, value in values.items()}
    return setup.build_compute(apply_overrides(load_config("configs/k400.py"), overrides).compute, platform)


def test_blocks_are_unrolled_where_a_scan_copies_activations():
    assert [compute(platform).unroll for platform in ("gpu", "tpu", "cpu")] == [0, 1, 1]
    assert [compute("gpu", unroll=text).unroll for text in ("1", "0", "4")] == [1, 0, 4]
    assert setup.resolve_unroll(3, "gpu") == 3  # as older configs have it
    with pytest.raises(InvalidValue, match="compute.unroll 'all' is unknown: choose auto, 0"):
        compute("gpu", unroll="all")
    with pytest.raises(InvalidValue, match="-1"):
        compute("gpu", unroll="-1")


def test_without_a_usable_cudnn_another_attention_is_taken_and_its_price_said(monkeypatch, caplog):
    assert compute("gpu").backend == "cudnn"
    monkeypatch.setattr(setup, "cudnn_problem", lambda: "it is version 8907, and 90000 is needed")
    assert compute("gpu").backend == "xla" and compute("gpu", attention="lean").backend == "lean"
    assert "version 8907" in caplog.text and "1.85 times" in caplog.text
    with pytest.raises(InvalidValue, match="attention=cudnn cannot be used: it is version 8907"):
        compute("gpu", attention="cudnn")
    assert compute("tpu").backend == "pallas"
