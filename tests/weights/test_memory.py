"""Conversion holds one copy of the weights: tracemalloc counts allocations, the kernel a mapped file's pages."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sigma_jax.weights import torch_weights
from sigma_jax.weights.formats import read_weights, write_weights
from sigma_jax.weights.pth import drop_pages, map_file
from sigma_jax.weights.published import weights_of
from sigma_jax.weights.weights_file import flatten

SMAPS = Path("/proc/self/smaps")
WIDTH, DEPTH = 192, 8
PLACES = {"npz": "w.npz", "pth": "w.pth", "hf": "folder"}


def classifier():
    """A finetuned model of 15 MB, all numbers different."""
    rng = np.random.default_rng(0)
    shapes = {"patch_embed.proj.weight": (WIDTH, 3, 2, 8, 8), "patch_embed.proj.bias": (WIDTH,)}
    block = {"norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,)}
    block |= {"attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.q_bias": (WIDTH,), "attn.v_bias": (WIDTH,)}
    block |= {"attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,)}
    block |= {"mlp.fc1.weight": (4 * WIDTH, WIDTH), "mlp.fc1.bias": (4 * WIDTH,)}
    block |= {"mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,)}
    shapes |= {f"blocks.{i}.{name}": shape for i in range(DEPTH) for name, shape in block.items()}
    shapes |= {"fc_norm.weight": (WIDTH,), "fc_norm.bias": (WIDTH,), "head.weight": (5, WIDTH), "head.bias": (5,)}
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return weights_of(arrays, "random", {"num_heads": None, "decoder_num_heads": None})


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    count, inside = 0, False
    for line in SMAPS.read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            count += int(line.split()[1]) * 1024
    return count


@pytest.mark.parametrize("form", PLACES)
def test_reading_and_writing_take_one_copy(tmp_path, form):
    weights = classifier()
    size = sum(array.nbytes for array in flatten(weights.params).values())
    weights.digest()
    tracemalloc.start()
    try:
        write_weights(tmp_path / PLACES[form], weights, form)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.clear_traces()
        tracemalloc.reset_peak()
        back = read_weights(tmp_path / PLACES[form])
        assert back.digest() == weights.digest()
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written < 0.5 * size, f"writing allocated {written:,} bytes for weights of {size:,}"
    assert size <= read < 1.5 * size, f"reading allocated {read:,} bytes for weights of {size:,}"


@pytest.mark.skipif(not SMAPS.exists(), reason="counts pages as Linux does")
@pytest.mark.parametrize("form", ["pth", "hf"])
def test_a_mapped_file_leaves_memory_as_it_is_converted(tmp_path, form, monkeypatch):
    weights, seen = classifier(), []
    write_weights(tmp_path / PLACES[form], weights, form)
    path = tmp_path / PLACES[form] / "model.safetensors" if form == "hf" else tmp_path / PLACES[form]

    def count_and_drop(array):
        if array.nbytes > 1 << 16:  # counting takes a tenth of a second
            seen.append(resident(path))
        drop_pages(array)

    monkeypatch.setattr(torch_weights, "drop_pages", count_and_drop)
    back = read_weights(tmp_path / PLACES[form])
    assert back.digest() == weights.digest()
    assert form != "pth" or max(seen) > 0
    assert max(seen) < path.stat().st_size / 3, f"{max(seen):,} of {path.stat().st_size:,} bytes at once"
    assert resident(path) == 0


@pytest.mark.skipif(not SMAPS.exists(), reason="counts pages as Linux does")
def test_dropped_pages_are_read_again(tmp_path):
    numbers = np.arange(1 << 18, dtype=np.float32)
    path = tmp_path / "file"
    path.write_bytes(numbers.tobytes())
    view = map_file(path).view(np.float32).reshape(512, 512).T
    np.testing.assert_array_equal(view, numbers.reshape(512, 512).T)
    assert resident(path) >= numbers.nbytes
    drop_pages(view)
    assert resident(path) == 0
    np.testing.assert_array_equal(view, numbers.reshape(512, 512).T)
    drop_pages(numbers)  # no file's: left alone
    assert numbers[-1] == len(numbers) - 1
