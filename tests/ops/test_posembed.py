"""Learned positional embeddings on another grid, against torch's interpolate (recorded, and live)."""

import numpy as np
import pytest

from sigma_jax.ops.posembed import resize_positions

TABLE = np.array([1, 4, 2, 0, 3, 7, 5, 5, -2], np.float32)[:, None]
RECORDED = {  # torch 2.13: interpolate(TABLE as 3x3, size=(2, 5), mode="bicubic", antialias=...)
    False: [0.29953, 1.82086, 3.70312, 3.77133, 3.42484, 3.76678, 4.40512, 4.51172, 1.93097, -0.19766],
    True: [0.21394, 1.51968, 3.56982, 4.06074, 4.15158, 3.13105, 3.70878, 4.26003, 2.41763, 1.13029],
}


@pytest.mark.parametrize("antialias", [False, True])
def test_space_as_torch_resizes(antialias):
    ours = resize_positions(TABLE, (3, 3), (2, 5), antialias=antialias)
    np.testing.assert_allclose(ours[:, 0], RECORDED[antialias], atol=1.5e-5)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("new", [(16, 16), (37, 20), (40, 45)])
def test_published_grids_as_torch_resizes(new, antialias):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((37 * 37, 4), np.float32)
    cube = torch.from_numpy(table).reshape(1, 37, 37, 4).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(cube, size=new, mode="bicubic", antialias=antialias)
    theirs = resized.permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    np.testing.assert_allclose(resize_positions(table, (37, 37), new, antialias=antialias), theirs, atol=2e-5)


def test_the_same_grid_is_the_same_table():
    assert resize_positions(TABLE, (3, 3), (3, 3)) is TABLE
    assert resize_positions(TABLE, (1, 3, 3), (1, 3, 3)) is TABLE


def test_time_is_linear_and_space_stays():
    table = np.concatenate([TABLE, TABLE + 4])  # two time steps
    four = np.asarray(resize_positions(table, (2, 3, 3), (4, 3, 3))).reshape(4, 9)
    np.testing.assert_allclose(four, TABLE[:, 0] + np.array([[0], [1], [3], [4]]), atol=1e-5)
    both = resize_positions(table, (2, 3, 3), (4, 2, 5))
    np.testing.assert_allclose(both[:10, 0], RECORDED[False], atol=1.5e-5)
