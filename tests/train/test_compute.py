"""How a config's compute section is resolved for a platform."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from sigma_jax.runtime.compilation import step_compilation
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


def test_a_teacher_in_8_bits_is_refused_where_it_cannot_be(devices):
    def teacher(device, dtype=jnp.bfloat16, **values):
        overrides = {f"compute.{name}": value for name, value in values.items()}
        config = apply_overrides(load_config("configs/k400.py:target=dino"), overrides)
        return setup.teacher_in_fp8(config.compute, dtype, device)

    def gpu(capability):
        return SimpleNamespace(platform="gpu", compute_capability=capability, device_kind=f"GPU {capability}")

    in_fp8 = {"teacher_dtype": "float8_e4m3fn"}
    assert not teacher(devices[0]) and not teacher(gpu("9.0"))
    assert teacher(gpu("9.0"), **in_fp8) and teacher(gpu("8.9"), **in_fp8)
    with pytest.raises(InvalidValue, match="compute capability 8.9 .* and this is GPU 8.0: use auto"):
        teacher(gpu("8.0"), **in_fp8)
    with pytest.raises(InvalidValue, match="this is cpu"):
        here = {"compute.teacher_dtype": "float8_e4m3fn"}
        setup.build_task(apply_overrides(load_config("configs/k400.py:target=dino"), here))
    with pytest.raises(InvalidValue, match="not with float32"):
        teacher(gpu("9.0"), jnp.float32, **in_fp8)
    with pytest.raises(InvalidValue, match="'fp8' is unknown: choose auto"):
        teacher(gpu("9.0"), teacher_dtype="fp8")


def test_a_step_for_gpus_is_compiled_with_products_that_add_biases(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert step_compilation("gpu") == {"xla_gpu_triton_gemm_any": False, "xla_gpu_cublas_fallback": False}
    assert step_compilation("gpu", fp8=True) == {"xla_gpu_enable_triton_gemm": False}
    assert step_compilation("cpu") is step_compilation("tpu") is None
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_triton_gemm_any=true")  # the user's word
    assert step_compilation("gpu") == {"xla_gpu_cublas_fallback": False}
